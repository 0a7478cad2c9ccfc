//! What is real: the vectors of appraisal's tests, and frames of a simulated union, one file for each (`seeds/`).

use std::path::{Path, PathBuf};

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Files of a folder whose names begin so, in order, with their names.
pub fn named(path: &str, begins: &str) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder(path)) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    files
        .into_iter()
        .filter_map(|f| Some((f.file_name()?.to_str()?.to_owned(), std::fs::read(&f).ok()?)))
        .filter(|(name, _)| name.starts_with(begins))
        .collect()
}

/// Their contents.
pub fn files(path: &str, begins: &str) -> Vec<Vec<u8>> {
    named(path, begins).into_iter().map(|(_, bytes)| bytes).collect()
}

/// A vector of appraisal's.
pub fn vectors(kind: &str, begins: &str) -> Vec<Vec<u8>> {
    files(&format!("../appraisal/tests/vectors/{kind}"), begins)
}
