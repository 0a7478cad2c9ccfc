//! docs/design/threats.md: each test that it names is there, by exactly that name.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

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

    #[test]
    fn each_test_that_the_threat_list_names_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let list = fs::read_to_string(root.join("docs/design/threats.md")).unwrap();
        let mut code = String::new();
        sources(root, &mut code);
        let rows = list.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| #"));
        let mut named = 0;
        for row in rows {
            let tests = row.rsplit('|').nth(1).unwrap();
            for name in tests.split('`').skip(1).step_by(2) {
                named += 1;
                assert!(code.contains(&format!("fn {name}(")), "there is no test {name}: {row}");
            }
        }
        assert!(named > 20, "only {named} tests are named");
    }
}
