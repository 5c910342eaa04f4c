//! The `moray` command.

fn main() {}
