//! Calls between the domains of one member. One file for each domain's interface; what a caller may call stands in
//! `topology.toml` and is checked by the callee against the kernel's word for who the caller is (`SO_PEERCRED`).
//!
//! A call is one request, any number of progress messages, one answer; descriptors travel with requests and answers.
//! Closing the connection cancels the call. Calls on one connection follow each other; concurrent calls use
//! connections of their own.

pub mod bulk;
mod client;
pub mod communication;
pub mod components;
pub mod drivers;
pub mod fetcher;
pub mod keeper;
pub mod management;
pub mod memory;
pub mod place;
pub mod security;
mod server;
pub mod supervisor;
pub mod wire;

pub use client::{CallError, Client, call, call_with};
pub use place::Place;
pub use server::{Answer, Caller, Service, Session, serve};

/// A method of some domain's interface.
pub trait Method: serde::Serialize {
    /// The domain that answers.
    const CALLEE: &'static str;
    /// The method's name, as topology.toml writes it.
    const NAME: &'static str;
    /// What it answers.
    type Reply: serde::de::DeserializeOwned;
    /// What it says while it works.
    type Progress: serde::de::DeserializeOwned;
}

/// All requests of one interface.
pub trait Requests: serde::de::DeserializeOwned {
    /// The method's name, as topology.toml writes it.
    fn method(&self) -> &'static str;
}

/// What a method answers that has nothing to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Nothing {}

/// Declares an interface: `Request` with a variant for each method, and [`Method`] for each parameter type.
#[macro_export]
macro_rules! interface {
    ($callee:literal { $( $(#[$doc:meta])* $method:ident = $name:literal -> $reply:ty $(, progress $progress:ty)? ; )* }) => {
        /// Every request of this interface.
        #[derive(Debug, serde::Serialize, serde::Deserialize)]
        #[serde(tag = "method", content = "params")]
        pub enum Request {
            $( $(#[$doc])* #[serde(rename = $name)] $method($method), )*
        }
        impl $crate::Requests for Request {
            fn method(&self) -> &'static str {
                match self { $( Self::$method(_) => $name, )* }
            }
        }
        $(
            impl $crate::Method for $method {
                const CALLEE: &'static str = $callee;
                const NAME: &'static str = $name;
                type Reply = $reply;
                type Progress = $crate::interface!(@progress $($progress)?);
            }
        )*
        /// The names of all methods.
        pub const METHODS: &[&str] = &[ $( $name ),* ];
    };
    (@progress) => { $crate::Nothing };
    (@progress $progress:ty) => { $progress };
}
