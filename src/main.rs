//! The `hadal` command.
fn main() {}
