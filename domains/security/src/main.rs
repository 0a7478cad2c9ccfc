//! SSD: keys, signatures, appraisal, policy verdicts.

fn main() {}
