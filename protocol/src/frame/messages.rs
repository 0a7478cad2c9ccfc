//! A protocol's messages from one table: name, kind, longest body. (HSP's own refuse with codes of HSP, and read versions first.)

/// The `Message` of a protocol, how it is sent and read, and `limits` of its frames.
macro_rules! messages {
    ($(#[$meta:meta])* $protocol:literal: $($name:ident = $kind:literal, $max:expr;)*) => {
        #[doc = concat!("A message of ", $protocol, ".")]
        $(#[$meta])*
        pub enum Message {
            $(#[doc = concat!("See [`", stringify!($name), "`].")] $name($name),)*
        }

        $(impl From<$name> for Message {
            fn from(message: $name) -> Self {
                Self::$name(message)
            }
        })*

        impl Message {
            /// Names, kinds and bounds of all of them.
            pub const TABLE: &'static [(&'static str, u8, usize)] = &[$((stringify!($name), $kind, $max)),*];

            /// The message that this frame is.
            ///
            /// # Errors
            /// Not of its kind's form, or of a kind that the protocol does not have.
            pub fn decode(frame: &$crate::frame::Frame) -> Result<Self, $crate::frame::wire::BodyFault> {
                match frame.kind {
                    $($kind => $crate::frame::wire::decode::<$name>(&frame.body).map(Self::$name),)*
                    kind => Err($crate::frame::wire::BodyFault::Shape(format!(
                        concat!($protocol, " has no messages of kind {}"), kind
                    ))),
                }
            }

            /// As it is sent.
            pub fn frame(&self) -> $crate::frame::Frame {
                match self {
                    $(Self::$name(m) => $crate::frame::Frame {
                        kind: $kind,
                        body: $crate::frame::wire::encode(m),
                    },)*
                }
            }
        }

        #[doc = concat!("The longest body of a kind; `None` for one that ", $protocol, " does not have.")]
        pub fn limits(kind: u8) -> Option<usize> {
            Message::TABLE.iter().find(|(_, k, _)| *k == kind).map(|(_, _, max)| *max)
        }

        const _: $crate::frame::Limits = limits;
    };
}

pub(crate) use messages;
