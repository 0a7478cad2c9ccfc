//! What packages ask for below /run at each start, in tmpfiles.d(5) and in their services, as `RuntimeDirectory=`
//! (systemd.exec(5)) or made by an `ExecStartPre=` (systemd.service(5)): systemd would make it; in a box guest-init does, from one list. Other places are not taken over: scripts
//! have seen to those.

use std::collections::BTreeMap;

/// Where packages say it, the less important first.
pub const FOLDERS: [&str; 3] = [UNITS, "usr/lib/tmpfiles.d", "etc/tmpfiles.d"];
/// Services.
const UNITS: &str = "usr/lib/systemd/system";
/// The list in a box: a line each, fields between tabs: type (`d`, `f`, `p`, `L`), path, mode, user, group, argument.
pub const LIST: &str = "usr/lib/gtvp/run";
/// Most bytes of one package's file of this kind.
pub const MAX_FILE: u64 = 256 * 1024;

/// A file that says it: its rank and its name, which a file of a higher rank may have too and then counts alone.
pub fn ranked(path: &str) -> Option<(usize, &str)> {
    let inside = |(n, f): (usize, &&str)| Some((n, path.strip_prefix(*f)?.strip_prefix('/')?));
    let (rank, name) = FOLDERS.iter().enumerate().find_map(inside)?;
    let ending = if FOLDERS[rank] == UNITS { ".service" } else { ".conf" };
    (name.ends_with(ending) && !name.contains('/')).then_some((rank, name))
}

/// A service's runtime directories as lines of tmpfiles.d. Users that systemd makes up at each start are not in a box.
pub fn of_service(text: &str) -> String {
    let value = |name: &str| {
        let of = |l: &str| {
            l.trim().strip_prefix(name)?.trim_start().strip_prefix('=').map(|v| v.trim().to_owned())
        };
        text.lines().filter_map(of).next_back().filter(|v| !v.is_empty())
    };
    if value("DynamicUser").is_some_and(|v| matches!(v.as_str(), "yes" | "true" | "1" | "on")) {
        return String::new();
    }
    let user = value("User").unwrap_or_else(|| "root".into());
    let mode = value("RuntimeDirectoryMode").unwrap_or_else(|| "0755".into());
    // Without a group it is the user's own, whose name nearly always is the user's.
    let group = value("Group").unwrap_or_else(|| user.clone());
    let directories = value("RuntimeDirectory").unwrap_or_default();
    let names = directories.split_whitespace().map(|d| d.split(':').next().unwrap_or(d));
    let asked = names.map(|name| Made::new(&format!("/run/{name}"), &mode, &user, &group));
    let mut made: Vec<Made> = asked.collect();
    for command in text.lines().filter_map(|l| l.trim().strip_prefix("ExecStartPre=")) {
        before(command, &mut made);
    }
    made.iter().map(|m| format!("d {} {} {} {}\n", m.path, m.mode, m.user, m.group)).collect()
}

/// A directory that a service has before it starts.
struct Made {
    path: String,
    mode: String,
    user: String,
    group: String,
}

impl Made {
    fn new(path: &str, mode: &str, user: &str, group: &str) -> Self {
        let [path, mode, user, group] = [path, mode, user, group].map(str::to_owned);
        Self { path, mode, user, group }
    }
}

/// Takes in what a command before a service does: `mkdir`, `install -d`, `chown`.
fn before(command: &str, made: &mut Vec<Made>) {
    let mut words = command.trim_start_matches(['-', '+', '!', '@', ':']).split_whitespace();
    let program = words.next().and_then(|p| p.rsplit('/').next()).unwrap_or_default();
    let (mut mode, mut user, mut group) = ("0755", "root", "root");
    let (mut directories, mut plain) = (program == "mkdir", Vec::new());
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix('-') else {
            plain.push(word);
            continue;
        };
        if let Some(value) = option.strip_prefix("-mode=") {
            mode = value;
            continue;
        }
        // `-dm 0755`, `-m0755`: letters until one that takes a value.
        let mut letters = option.chars();
        while let Some(letter) = letters.next() {
            let into = match letter {
                'd' => {
                    directories |= program == "install";
                    continue;
                }
                'm' => &mut mode,
                'o' => &mut user,
                'g' => &mut group,
                '-' => break,
                _ => continue,
            };
            *into =
                Some(letters.as_str()).filter(|v| !v.is_empty()).or_else(|| words.next()).unwrap_or(*into);
            break;
        }
    }
    match (program, plain.as_slice()) {
        ("chown", [owner, paths @ ..]) => {
            let (user, group) = owner.split_once([':', '.']).unwrap_or((owner, ""));
            for m in made.iter_mut().filter(|m| paths.contains(&m.path.as_str())) {
                m.user = if user.is_empty() { m.user.clone() } else { user.into() };
                m.group = if group.is_empty() { m.group.clone() } else { group.into() };
            }
        }
        (_, paths) if directories => made.extend(paths.iter().map(|p| Made::new(p, mode, user, group))),
        _ => {}
    }
}

/// The list, of the files by name: each path once, as its first line says (tmpfiles.d(5)), folders before what lies in them.
pub fn list<'a>(files: impl Iterator<Item = &'a str>) -> String {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (path, line) in files.flat_map(str::lines).filter_map(line) {
        all.entry(path).or_insert(line);
    }
    all.into_values().collect()
}

/// A line that is about something below /run: its path, and how it stands in the list.
fn line(text: &str) -> Option<(String, String)> {
    let text = text.trim();
    if text.starts_with('#') || text.contains(['"', '\'']) {
        return None;
    }
    let mut rest = text;
    let mut next = || {
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        rest = after.trim_start();
        if word.is_empty() || word == "-" { None } else { Some(word) }
    };
    let (kind, path) = (next()?, next()?);
    let (mode, user, group, _age) = (next(), next(), next(), next());
    let argument = if rest == "-" { "" } else { rest };
    let kind = match kind.chars().next()? {
        'd' | 'D' | 'v' | 'q' | 'Q' => 'd',
        'f' | 'F' => 'f',
        'p' => 'p',
        'L' if argument.starts_with('/') || argument.starts_with("../") => 'L',
        _ => return None,
    };
    let path = path.replacen("%t", "/run", 1);
    let path =
        path.strip_prefix("/var").filter(|p| p.starts_with("/run/")).unwrap_or(&path).trim_end_matches('/');
    let is_plain = |s: &str| !s.contains(['%', '\\', '*', '\t']);
    let below_run =
        path.strip_prefix("/run/").is_some_and(|p| p.split('/').all(|n| !matches!(n, "" | "." | "..")));
    if !below_run || !is_plain(path) || !is_plain(argument) {
        return None;
    }
    let default = if kind == 'd' { "0755" } else { "0644" };
    let mode = mode.unwrap_or(default).trim_start_matches([':', '~']);
    u32::from_str_radix(mode, 8).ok().filter(|m| *m <= 0o7777)?;
    let owner = |o: Option<&str>| o.unwrap_or("root").trim_start_matches(':').to_owned();
    let line = format!("{kind}\t{path}\t{mode}\t{}\t{}\t{argument}\n", owner(user), owner(group));
    Some((path.to_owned(), line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_run_is_listed() {
        let debians = "# comment\nd /run/postgresql 2775 postgres postgres - -\nd /var/run/redis 2755 redis redis\n\
            d /var/log/postgresql 1775 root postgres - -\nD! %t/a - - - -\nL /run/x - - - - /etc/x\nf /run/y 0600 - - - words of it\n";
        assert_eq!(
            list([debians].into_iter()),
            "d\t/run/a\t0755\troot\troot\t\nd\t/run/postgresql\t2775\tpostgres\tpostgres\t\n\
             d\t/run/redis\t2755\tredis\tredis\t\nL\t/run/x\t0644\troot\troot\t/etc/x\nf\t/run/y\t0600\troot\troot\twords of it\n"
        );
    }

    #[test]
    fn a_services_runtime_directory_is_listed() {
        let redis =
            "[Service]\nUser=redis\nGroup=redis\nRuntimeDirectory=redis a/b\nRuntimeDirectoryMode=2755\n";
        let lines = of_service(redis);
        assert_eq!(lines, "d /run/redis 2755 redis redis\nd /run/a/b 2755 redis redis\n");
        assert!(list([lines.as_str()].into_iter()).contains("d\t/run/redis\t2755\tredis\tredis\t\n"));
        assert_eq!(of_service("[Service]\nRuntimeDirectory=x\nDynamicUser=yes\n"), "");
        assert_eq!(of_service("[Service]\nUser=x\n"), "");
        let template = of_service("RuntimeDirectory=x-%i\n");
        assert_eq!(list([template.as_str()].into_iter()), "", "an instance's name is not known");
    }

    #[test]
    fn what_a_service_makes_before_it_starts_is_listed() {
        let of =
            |command: &str| list([of_service(&format!("ExecStartPre={command}\n")).as_str()].into_iter());
        assert_eq!(of("-/bin/mkdir -p /var/run/vsftpd/empty"), "d\t/run/vsftpd/empty\t0755\troot\troot\t\n");
        assert_eq!(
            of("/usr/bin/install -Z -m 02755 -o debian-tor -g debian-tor -d /run/tor"),
            "d\t/run/tor\t02755\tdebian-tor\tdebian-tor\t\n"
        );
        assert_eq!(of("+install -dm 0700 -ox /run/x"), "d\t/run/x\t0700\tx\troot\t\n");
        assert_eq!(
            of(
                "/bin/mkdir -m 740 -p /run/mosquitto\nExecStartPre=/bin/chown mosquitto:mosquitto /run/mosquitto"
            ),
            "d\t/run/mosquitto\t740\tmosquitto\tmosquitto\t\n"
        );
        for not in ["/bin/chown x /run/x", "install /etc/a /run/a", "mkdir /var/lib/x", "mkdir -p ${DIR}", ""]
        {
            assert_eq!(of(not), "", "{not}");
        }
    }

    #[test]
    fn files_that_say_it_are_known_by_where_they_are() {
        assert_eq!(ranked("usr/lib/systemd/system/redis.service"), Some((0, "redis.service")));
        assert_eq!(ranked("usr/lib/tmpfiles.d/x.conf"), Some((1, "x.conf")));
        assert_eq!(ranked("etc/tmpfiles.d/x.conf"), Some((2, "x.conf")));
        for not in
            ["usr/lib/tmpfiles.d/x", "usr/lib/systemd/system/x.wants/y.service", "usr/lib/tmpfiles.d.conf"]
        {
            assert_eq!(ranked(not), None);
        }
    }

    #[test]
    fn what_is_not_understood_or_leaves_run_is_not() {
        for text in [
            "",
            "d",
            "d /run",
            "d /run/../etc",
            "d /run/%b",
            "z /run/x 0755",
            "d /run/x 99999",
            "r! /run/x",
            "L /run/x - - - -",
            "d \"/run/a b\"",
            "x /run/*",
            "C /run/x - - - - /y",
        ] {
            assert_eq!(list([text].into_iter()), "", "{text}");
        }
    }

    #[test]
    fn the_first_line_about_a_path_holds() {
        let text = list(["d /run/x 0700", "d /run/x 0755"].into_iter());
        assert_eq!(text, "d\t/run/x\t0700\troot\troot\t\n");
    }
}
