//! MD: box lifecycle, inventory, events, the admin interface's other end.

fn main() {}
