//! What came from outside and was not checked yet.

/// A value that another member, a disk or a person gave. It is read only by what checks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untrusted<T>(T);

impl<T> Untrusted<T> {
    /// Marks `value` as not checked.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for a check: whoever calls this is the check.
    pub fn unchecked(&self) -> &T {
        &self.0
    }

    /// The value, if `check` says that it is good.
    ///
    /// # Errors
    /// What `check` says.
    pub fn check<U, E>(self, check: impl FnOnce(T) -> Result<U, E>) -> Result<U, E> {
        check(self.0)
    }
}
