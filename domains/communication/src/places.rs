//! Where other members are to be found, as far as this one has heard: kept in a file, so that a member that starts anew finds the
//! others again. All of it is hearsay: whoever is dialled proves who it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use gtvp_model::token::Endpoint;
use gtvp_model::union::MemberId;
use gtvp_protocol::neighbour::Place;
use serde::{Deserialize, Serialize};

/// The file.
const FILE: &str = "endpoints.json";
/// Longest file read: 1,000 members with the longest endpoints.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// Ways kept from hearsay, for each member.
const HEARSAY: usize = 2;
/// Members remembered.
const MEMBERS: usize = 1024;

/// The ways to one member, best first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Ways {
    /// What it said itself, on its own channel.
    own: Option<Endpoint>,
    /// The address that it came from, with the port that it said.
    seen: Option<Endpoint>,
    /// What others said, or a token. The newest first.
    others: Vec<Endpoint>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Book {
    path: Option<PathBuf>,
    ways: BTreeMap<MemberId, Ways>,
}

#[derive(Serialize, Deserialize)]
struct Row {
    member: MemberId,
    #[serde(flatten)]
    ways: Ways,
}

impl Book {
    /// As it was left in this folder. A file that cannot be read is as good as none: it is told, and members are heard of again.
    pub fn open(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let read = || -> io::Result<Vec<Row>> {
            if std::fs::metadata(&path)?.len() > MAX_FILE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too long"));
            }
            serde_json::from_slice(&std::fs::read(&path)?).map_err(io::Error::from)
        };
        let rows = read().unwrap_or_else(|e| {
            if e.kind() != io::ErrorKind::NotFound {
                eprintln!("gtvp-communication: {FILE} cannot be used: {e}");
            }
            Vec::new()
        });
        let ways = rows.into_iter().take(MEMBERS).map(|r| (r.member, r.ways)).collect();
        Self { path: Some(path), ways }
    }

    /// Ways to this member, best first.
    pub fn of(&self, member: MemberId) -> Vec<Endpoint> {
        let Some(w) = self.ways.get(&member) else { return Vec::new() };
        let mut all: Vec<Endpoint> = Vec::new();
        for way in w.own.iter().chain(&w.seen).chain(&w.others) {
            if !all.contains(way) {
                all.push(way.clone());
            }
        }
        all
    }

    /// What a member said of itself, and where it came from. Whether that is news, which is to be [kept](Self::keep).
    pub fn own_word(&mut self, member: MemberId, own: Endpoint, seen: Option<Endpoint>) -> bool {
        let Some(ways) = self.room(member) else { return false };
        let before = ways.clone();
        ways.own = Some(own);
        ways.seen = seen.or(ways.seen.take());
        *ways != before
    }

    /// What another one said of a member. Whether that is news, which is to be [kept](Self::keep).
    pub fn hearsay(&mut self, member: MemberId, way: Endpoint) -> bool {
        if self.of(member).contains(&way) {
            return false;
        }
        let Some(ways) = self.room(member) else { return false };
        ways.others.insert(0, way);
        ways.others.truncate(HEARSAY);
        true
    }

    fn room(&mut self, member: MemberId) -> Option<&mut Ways> {
        if self.ways.len() >= MEMBERS && !self.ways.contains_key(&member) {
            return None;
        }
        Some(self.ways.entry(member).or_default())
    }

    /// Forgets everybody else.
    pub fn only(&mut self, members: &BTreeSet<MemberId>) {
        let before = self.ways.len();
        self.ways.retain(|m, _| members.contains(m));
        if self.ways.len() != before {
            self.keep();
        }
    }

    /// The best way to each member, to be told to others.
    pub fn best(&self) -> Vec<Place> {
        let way = |(m, w): (&MemberId, &Ways)| {
            // Another member may not reach what only this one has seen; a way of its own word is meant for all.
            let endpoint = w.own.as_ref().or(w.seen.as_ref()).or(w.others.first())?.clone();
            Some(Place { member: *m, endpoint })
        };
        self.ways.iter().filter_map(way).collect()
    }

    /// Writes all of it down, for the next start.
    pub fn keep(&self) {
        let Some(path) = &self.path else { return };
        let rows: Vec<Row> = self.ways.iter().map(|(m, w)| Row { member: *m, ways: w.clone() }).collect();
        let kept = serde_json::to_vec(&rows).map_err(io::Error::from).and_then(|b| replace(path, &b));
        if let Err(e) = kept {
            eprintln!("gtvp-communication: {FILE} cannot be written: {e}");
        }
    }
}

/// Writes a file anew so that after a crash there is either the old one or the new one.
///
/// # Errors
/// The kernel's; the old one is there then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of one test's own.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("gtvp-places-{test}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn way(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn what_a_member_says_of_itself_is_not_pushed_out_by_what_others_say() {
        let folder = Folder::new("pushed");
        let (a, b) = ([1; 32].into(), [2; 32].into());
        let mut book = Book::open(&folder.0);
        assert!(book.hearsay(a, way("192.0.2.1:7433")));
        assert!(!book.hearsay(a, way("192.0.2.1:7433")), "no news");
        assert!(book.own_word(a, way("a.example:7433"), Some(way("192.0.2.9:7433"))));
        assert!(!book.own_word(a, way("a.example:7433"), Some(way("192.0.2.9:7433"))), "no news");
        for n in 0..100 {
            book.hearsay(a, way(&format!("198.51.100.{n}:1")));
        }
        book.hearsay(b, way("b.example:7433"));
        book.keep();
        let book = Book::open(&folder.0);
        let ways = book.of(a);
        assert_eq!(ways[..2], [way("a.example:7433"), way("192.0.2.9:7433")]);
        assert_eq!(ways.len(), 2 + HEARSAY);
        assert_eq!(book.best()[0].endpoint, way("a.example:7433"));
        let mut book = book;
        book.only(&[b].into());
        assert!(Book::open(&folder.0).of(a).is_empty());
        assert_eq!(Book::open(&folder.0).of(b), [way("b.example:7433")]);
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let folder = Folder::new("damaged");
        std::fs::write(folder.0.join(FILE), b"{\"").unwrap();
        assert!(Book::open(&folder.0).of([1; 32].into()).is_empty());
    }
}
