//! Runs stories one after the other in one lab: machines under TCG leave no room for two at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use crate::Lab;

/// A story and its name.
pub type Story = (&'static str, fn(&Lab));

/// Runs the stories whose name contains the first argument that is not an option, in a lab of this name with so many members.
pub fn run(lab: &str, members: u8, stories: &[Story]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--list") {
        stories.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|a| !a.starts_with('-')).cloned().unwrap_or_default();
    let chosen: Vec<_> = stories.iter().filter(|(name, _)| name.contains(&filter)).collect();
    println!("\nrunning {} tests", chosen.len());
    let mut failed = Vec::new();
    if !chosen.is_empty() {
        let begun = Instant::now();
        let lab = Lab::fresh(lab, members);
        println!("the lab is up after {:.1} s", begun.elapsed().as_secs_f32());
        for (name, story) in &chosen {
            let begun = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| story(&lab)));
            let word = if outcome.is_ok() { "ok" } else { "FAILED" };
            println!("test {name} ... {word} ({:.1} s)", begun.elapsed().as_secs_f32());
            if outcome.is_err() {
                failed.push(*name);
                println!("{}", lab.gtvp(&["events", "--tail", "60"]).out);
                // The next story finds the member as this one did.
                for left in lab.boxes() {
                    lab.gtvp(&["box", "rm", "--force", left["name"].as_str().unwrap_or_default()]);
                }
            }
        }
    }
    let (passed, outside) = (chosen.len() - failed.len(), stories.len() - chosen.len());
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    failed.iter().for_each(|name| println!("failed: {name}"));
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; 0 ignored; 0 measured; {outside} filtered out\n",
        failed.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
