//! What members that lie come to.
