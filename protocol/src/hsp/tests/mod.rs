//! HSP as its users see it, and its attackers.
