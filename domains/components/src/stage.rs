//! Which maintainer scripts run in one builder box: those of the essential system in a first one, whose result every
//! composition on the same base shares, the rest on top of it in a second one. Together they do what one run would do.

use std::collections::BTreeSet;

use gtvp_model::component::RootPath;
use gtvp_model::digest::Digest;
use gtvp_model::fault::Fault;

use crate::archive::canonical;
use crate::catalogue::Builder;
use crate::closure::Closure;
use crate::store::Store;

/// Version of how scripts are run and what is kept: another one runs them again.
const FORMAT: u32 = 2;
/// Most bytes of a package's list of triggers.
const MAX_TRIGGERS: u64 = 1024 * 1024;

/// One builder box's work.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stage {
    /// The derived component beneath: what the scripts of the base have left.
    pub beneath: Option<Digest>,
    /// Names of the packages that are configured already.
    pub done: BTreeSet<String>,
    /// File triggers of packages that are configured already, set off by the files of the others.
    pub pending: BTreeSet<String>,
    /// Packages, by number, whose files some package's trigger reads: what scripts make depends on them too.
    pub read: BTreeSet<u32>,
}

/// Whether `closure` has every package of `base`, at the same contents, and others.
pub fn stands_on(closure: &Closure, base: &Closure) -> bool {
    let sources: BTreeSet<&Digest> = closure.packages.iter().map(|p| &p.source).collect();
    base.packages.len() < closure.packages.len() && base.packages.iter().all(|p| sources.contains(&p.source))
}

/// The names of a base's packages.
pub fn done(base: Option<&Closure>) -> BTreeSet<String> {
    base.into_iter().flat_map(|b| &b.packages).map(|p| p.name.clone()).collect()
}

impl Stage {
    /// Of a closure whose packages with scripts are imported, on a base.
    pub fn new(
        closure: &Closure,
        base: Option<&Closure>,
        store: &Store,
        catalogue: &Builder,
    ) -> Result<Self, Fault> {
        let done = done(base);
        let mut stage = Self { beneath: base.and_then(Closure::configured), done, ..Self::default() };
        for package in closure.with_scripts() {
            let Some(record) = store.record(&package.source) else { continue };
            let Some(digest) = record.control.get("triggers") else { continue };
            let text = store.read_object(digest, MAX_TRIGGERS)?;
            for trigger in interests(&String::from_utf8_lossy(&text)) {
                let Ok(path) = RootPath::new(trigger.trim_start_matches('/').as_bytes()) else { continue };
                let who = catalogue.packages_at(&canonical(path));
                let is_new = |n: &u32| {
                    closure.packages.get(*n as usize).is_some_and(|p| !stage.done.contains(&p.name))
                };
                let new: BTreeSet<u32> = who.into_iter().filter(is_new).collect();
                if stage.done.contains(&package.name) && !new.is_empty() {
                    stage.pending.insert(trigger);
                }
                stage.read.extend(new);
            }
        }
        Ok(stage)
    }

    /// What names its result; none when there is nothing to run.
    pub fn inputs(&self, closure: &Closure) -> Option<Digest> {
        let mut text = format!("gtvp-configured {FORMAT}\n");
        if let Some(beneath) = &self.beneath {
            text.push_str(&format!("on {beneath}\n"));
        }
        let mut runs = !self.pending.is_empty();
        for ((number, package), scripts) in (0..).zip(&closure.packages).zip(&closure.scripts) {
            let scripts = *scripts && !self.done.contains(&package.name);
            runs |= scripts;
            if scripts || self.read.contains(&number) {
                text.push_str(&format!("{} {}\n", package.reference(), package.source));
            }
        }
        runs.then(|| Digest::of(text.as_bytes()))
    }
}

/// The paths for which a package waits (deb-triggers(5)).
fn interests(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|line| {
        let (directive, trigger) = line.trim().split_once(char::is_whitespace)?;
        let trigger = trigger.trim();
        (directive.starts_with("interest") && trigger.starts_with('/')).then(|| trigger.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::tests::package;

    fn closure(names: &[&str], scripted: &[&str]) -> Closure {
        let mut c = Closure::new(package("linux", ""), names.iter().map(|n| package(n, "")).collect());
        c.scripts = c.packages.iter().map(|p| scripted.contains(&p.name.as_str())).collect();
        c
    }

    #[test]
    fn a_closure_stands_on_a_base_that_it_has_whole() {
        let base = closure(&["bash", "libc6"], &[]);
        assert!(stands_on(&closure(&["bash", "libc6", "nginx"], &[]), &base));
        assert!(!stands_on(&closure(&["bash", "nginx"], &[]), &base));
        assert!(!stands_on(&base, &base));
        let mut other = closure(&["bash", "libc6", "nginx"], &[]);
        other.packages[0].source = Digest::of(b"another version");
        assert!(!stands_on(&other, &base));
    }

    #[test]
    fn the_result_depends_on_scripts_and_on_what_triggers_read() {
        let first = closure(&["libc6", "nginx"], &["libc6", "nginx"]);
        let more = closure(&["libc6", "nginx", "zzz-data"], &["libc6", "nginx"]);
        let one = Stage::default();
        assert_eq!(one.inputs(&first), one.inputs(&more));
        let read = Stage { read: [2].into(), ..Stage::default() };
        assert_ne!(read.inputs(&first), read.inputs(&more));
        let scripted = closure(&["libc6", "nginx", "zzz-data"], &["libc6", "nginx", "zzz-data"]);
        assert_ne!(one.inputs(&first), one.inputs(&scripted));
    }

    #[test]
    fn a_stage_without_scripts_or_triggers_is_none() {
        let base = closure(&["libc6"], &["libc6"]);
        let on = |beneath: &[u8], pending: &[&str]| Stage {
            beneath: Some(Digest::of(beneath)),
            done: done(Some(&base)),
            pending: pending.iter().map(|s| (*s).to_owned()).collect(),
            ..Stage::default()
        };
        assert_eq!(on(b"b", &[]).inputs(&closure(&["libc6", "data"], &["libc6"])), None);
        assert!(on(b"b", &["/x"]).inputs(&closure(&["libc6", "data"], &["libc6"])).is_some());
        let nginx = closure(&["libc6", "nginx"], &["libc6", "nginx"]);
        assert_ne!(
            on(b"b", &[]).inputs(&nginx),
            on(b"c", &[]).inputs(&nginx),
            "another base, another result"
        );
    }

    #[test]
    fn interests_in_paths_are_read() {
        let text =
            "# x\ninterest-noawait /usr/share/a\ninterest ldconfig\nactivate /usr/b\ninterest   /etc/c\n";
        assert_eq!(interests(text).collect::<Vec<_>>(), ["/usr/share/a", "/etc/c"]);
    }
}
