//! One file for each noun of the command line. Commands ask the API and print; they decide nothing.

pub mod boxes;
pub mod components;
pub mod docs;
pub mod doctor;
pub mod events;
pub mod exec;
pub mod logs;
pub mod member;
pub mod operations;
pub mod run;
pub mod templates;
pub mod union;
pub mod verify;
