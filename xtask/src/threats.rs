//! docs/design/threats.md: each test that it names is there, by exactly that name; and each attack that this version must withstand has a
//! control, and a test against production code.

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    /// The numbers of the design that are this version's.
    const NUMBERS: [u8; 25] =
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 63, 69, 70];
    /// Where tests run what members run, and not engines in memory.
    const PRODUCTION: [&str; 3] = ["domains/security", "domains/communication", "e2e"];

    /// Every Rust file below `folder`, as one text.
    fn sources(folder: &Path, into: &mut String) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && !matches!(name.to_str(), Some("target" | "build" | ".git")) {
                sources(&path, into);
            } else if path.extension().is_some_and(|x| x == "rs") {
                into.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }

    fn below(folders: &[&str]) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut code = String::new();
        folders.iter().for_each(|f| sources(&root.join(f), &mut code));
        code
    }

    fn page() -> String {
        let at = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/design/threats.md");
        fs::read_to_string(at).unwrap()
    }

    /// Threats, and their controls.
    fn parts(page: &str) -> (&str, &str) {
        page.split_once("\n## Controls\n").unwrap()
    }

    /// The cells of each row.
    fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
        let rows = text.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| #"));
        rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
    }

    /// The tests that a cell names.
    fn named(cell: &str) -> Vec<&str> {
        cell.split('`').skip(1).step_by(2).collect()
    }

    /// Those that are not there.
    fn absent<'a>(code: &str, tests: &[&'a str]) -> Vec<&'a str> {
        tests.iter().copied().filter(|t| !code.contains(&format!("fn {t}("))).collect()
    }

    /// Whether a row's first cell, such as "1-6, 9", has this number.
    fn has(cell: &str, number: u8) -> bool {
        let of = |text: &str| text.trim().parse::<u8>().ok();
        cell.split(',').any(|part| match part.split_once('–').and_then(|(a, b)| of(a).zip(of(b))) {
            Some((from, to)) => (from..=to).contains(&number),
            None => of(part) == Some(number),
        })
    }

    #[test]
    fn each_test_that_the_threat_list_names_is_there() {
        let page = page();
        let code = below(&["."]);
        let mut count = 0;
        for row in rows(parts(&page).0) {
            let tests = named(row.last().unwrap());
            count += tests.len();
            assert_eq!(absent(&code, &tests), [""; 0], "{row:?}");
        }
        assert!(count > 20, "only {count} tests are named");
    }

    #[test]
    fn each_attack_has_a_control_and_a_test_against_production_code() {
        let page = page();
        let (threats, controls) = parts(&page);
        let mut found: BTreeMap<u8, Vec<&str>> = BTreeMap::new();
        for row in rows(controls) {
            assert!(found.insert(row[0].parse().unwrap(), row.clone()).is_none(), "{row:?} comes twice");
        }
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), NUMBERS);
        let (code, production) = (below(&["."]), below(&PRODUCTION));
        for (number, row) in found {
            let [_, control, against] = row[..] else { panic!("{number} has other columns: {row:?}") };
            for (what, cell, code) in [("control", control, &code), ("production code", against, &production)]
            {
                let tests = named(cell);
                let says_why = cell.strip_prefix("none: ").is_some_and(|why| why.len() > 10);
                assert!(says_why || !tests.is_empty(), "{number}, {what}: no test, and not why none");
                assert_eq!(absent(code, &tests), [""; 0], "{number}, {what}");
            }
            assert!(rows(threats).any(|row| has(row[0], number)), "no row is about {number}");
        }
    }
}
