//! The box's users and groups, read from its own /etc/passwd and /etc/group: a static program has no name-service
//! modules, and the box's files are what its packages have set up.

use std::io::{self, Read};

/// Most bytes of one of the files: tens of thousands of accounts.
const MAX_FILE: u64 = 1024 * 1024;

/// Who a program runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Name, or the number when it has none.
    pub name: String,
    /// User.
    pub uid: u32,
    /// Main group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

/// Why there is no such account.
#[derive(Debug, thiserror::Error)]
pub enum NoAccount {
    /// Not in the file.
    #[error("user {0:?} does not exist in the box: /etc/passwd has no such name")]
    Unknown(String),
    /// The file cannot be read.
    #[error("the box's {0} cannot be read: {1}")]
    File(&'static str, io::Error),
}

impl Account {
    /// The account that `user` names, by name or by number; root when none.
    pub fn look_up(user: Option<&str>) -> Result<Self, NoAccount> {
        let passwd = read("/etc/passwd");
        let group = read("/etc/group");
        // Root needs no file: a root without /etc/passwd still has one.
        if matches!(user, None | Some("root" | "0")) {
            let known = find(&passwd.unwrap_or_default(), &group.unwrap_or_default(), "root");
            return Ok(known.unwrap_or_else(Self::root));
        }
        let user = user.unwrap_or("root");
        let (passwd, group) = (
            passwd.map_err(|e| NoAccount::File("/etc/passwd", e))?,
            group.map_err(|e| NoAccount::File("/etc/group", e))?,
        );
        find(&passwd, &group, user).ok_or_else(|| NoAccount::Unknown(user.into()))
    }

    fn root() -> Self {
        Self { name: "root".into(), uid: 0, gid: 0, groups: vec![0], home: "/root".into() }
    }
}

/// The numbers of names.
pub struct Names {
    passwd: String,
    group: String,
}

impl Names {
    /// Those of the box; an unreadable file has none.
    pub fn read() -> Self {
        Self {
            passwd: read("/etc/passwd").unwrap_or_default(),
            group: read("/etc/group").unwrap_or_default(),
        }
    }

    #[cfg(test)]
    pub fn of(passwd: &str, group: &str) -> Self {
        Self { passwd: passwd.into(), group: group.into() }
    }

    /// A user's, by name or as it is.
    pub fn user(&self, name: &str) -> Option<u32> {
        number(&self.passwd, name)
    }

    /// A group's, by name or as it is.
    pub fn group(&self, name: &str) -> Option<u32> {
        number(&self.group, name)
    }
}

/// The third field of the line of `name`; of both files it is the number.
fn number(file: &str, name: &str) -> Option<u32> {
    let found = file.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    found.or_else(|| name.parse().ok()).or_else(|| (name == "root").then_some(0))
}

fn read(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => file.take(MAX_FILE).read_to_end(&mut bytes)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => return Err(e),
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn find(passwd: &str, group: &str, user: &str) -> Option<Account> {
    let number: Option<u32> = user.parse().ok();
    let entry = |line: &str| {
        let f: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = f[..] else { return None };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        (name == user || number == Some(uid)).then(|| (name.to_string(), uid, gid, home.to_string()))
    };
    // A number without a name is an account too; its group is the one with the same number.
    let (name, uid, gid, home) = passwd
        .lines()
        .find_map(entry)
        .or_else(|| number.map(|n| (user.to_string(), n, n, "/".to_string())))?;
    let member = |line: &str| {
        let f: Vec<&str> = line.split(':').collect();
        let [_, _, id, members, ..] = f[..] else { return None };
        members.split(',').any(|m| m.trim() == name).then(|| id.parse::<u32>().ok()).flatten()
    };
    let mut groups: Vec<u32> = std::iter::once(gid).chain(group.lines().filter_map(member)).collect();
    groups.sort_unstable();
    groups.dedup();
    let home = if home.is_empty() { "/".to_string() } else { home };
    Some(Account { name, uid, gid, groups, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n\
                          app:x:1000:1000:,,,:/home/app:/bin/sh\n";
    const GROUP: &str =
        "root:x:0:\nwww-data:x:33:\nadm:x:4:app, www-data\nssl-cert:x:110:www-data\nbad:x:y:app\n";

    #[test]
    fn by_name_and_by_number_with_groups() {
        let www = find(PASSWD, GROUP, "www-data").unwrap();
        assert_eq!((www.uid, www.gid, www.home.as_str()), (33, 33, "/var/www"));
        assert_eq!(www.groups, [4, 33, 110]);
        assert_eq!(find(PASSWD, GROUP, "33").unwrap(), www);
        assert_eq!(find(PASSWD, GROUP, "app").unwrap().groups, [4, 1000]);
    }

    #[test]
    fn a_number_without_a_name_runs_and_a_name_without_an_entry_does_not() {
        let n = find(PASSWD, GROUP, "4242").unwrap();
        assert_eq!((n.uid, n.gid, n.groups.as_slice(), n.home.as_str()), (4242, 4242, &[4242][..], "/"));
        assert_eq!(find(PASSWD, GROUP, "nobody"), None);
        assert_eq!(find(PASSWD, GROUP, ""), None);
        assert_eq!(find(PASSWD, GROUP, "-1"), None);
    }
}
