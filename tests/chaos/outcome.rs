//! What became of a call, small enough to be written down for each.

use slimerpc_actors::{Ran, RpcError};

macro_rules! endings {
    ($($name:ident => $word:literal),* $(,)?) => {
        /// How a call ended.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub(crate) enum Ending { $($name),* }

        impl Ending {
            const ALL: &[Self] = &[$(Self::$name),*];

            /// For tables.
            pub(crate) fn word(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }
        }
    };
}

endings! {
    Answered => "answered",
    Told => "told",
    // The answer is that of another request, or of none.
    Wrong => "answered wrongly",
    // It did not end within any time that makes sense.
    Hung => "hung",
    Timeout => "Timeout",
    PeerLost => "PeerLost",
    Remote => "Remote",
    ServiceDown => "ServiceDown",
    Stalled => "Stalled",
    NoMemory => "NoMemory",
    BadReply => "BadReply",
    // Of which the load gives no occasion.
    Other => "other errors",
}

impl Ending {
    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    pub(crate) fn is_error(self) -> bool {
        self >= Self::Timeout
    }

    /// Whether it is one that no fault of a peer excuses.
    pub(crate) fn is_a_bug(self) -> bool {
        matches!(
            self,
            Self::Wrong | Self::Hung | Self::BadReply | Self::Other
        )
    }
}

/// How a call ended, and whether it was run as far as its caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) ending: Ending,
    pub(crate) ran: Ran,
}

impl Outcome {
    pub(crate) const HUNG: Self = Self::new(Ending::Hung, Ran::Unknown);

    const fn new(ending: Ending, ran: Ran) -> Self {
        Self { ending, ran }
    }

    /// Of a call whose answer is to be `right`.
    pub(crate) fn of<T: PartialEq>(result: Result<T, RpcError>, right: &T) -> Self {
        match result {
            Ok(answer) if answer == *right => Self::new(Ending::Answered, Ran::Yes),
            Ok(_) => Self::new(Ending::Wrong, Ran::Yes),
            Err(error) => Self::of_error(&error),
        }
    }

    /// Of a call that nobody waits for: that it was taken says nothing about whether it was run.
    pub(crate) fn of_tell(result: Result<(), RpcError>) -> Self {
        match result {
            Ok(()) => Self::new(Ending::Told, Ran::Unknown),
            Err(error) => Self::of_error(&error),
        }
    }

    pub(crate) fn of_error(error: &RpcError) -> Self {
        let ending = match error {
            RpcError::Timeout { .. } => Ending::Timeout,
            RpcError::PeerLost { .. } => Ending::PeerLost,
            RpcError::Remote { .. } => Ending::Remote,
            RpcError::ServiceDown { .. } => Ending::ServiceDown,
            RpcError::Stalled { .. } => Ending::Stalled,
            RpcError::NoMemory { .. } => Ending::NoMemory,
            RpcError::BadReply(_) => Ending::BadReply,
            _ => Ending::Other,
        };
        Self::new(ending, error.ran())
    }
}
