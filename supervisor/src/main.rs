//! gtvpd: jails the domains, hands them what they may hold, restarts them, nothing else.

fn main() {}
