//! The number under which a call goes to a store, and by which its reply finds back.

/// A stream of answers within this gateway: a client's Session stream, or one unary call. 0 is
/// none; the numbers begin again after 4 billion, passing over those in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamNumber(pub u32);

impl StreamNumber {
    /// No stream: the gateway itself asked, by keepalives for several streams.
    pub const GATEWAY: Self = Self(0);
}

/// A call of a stream: its slot and how often the slot has been used, see [`crate::outbox`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallNumber(pub u32);

impl CallNumber {
    /// Of the gateway's own calls: that a store describe itself. It is asked once at a time, so one
    /// number is enough; keepalives stay below.
    pub const DESCRIBE: Self = Self(1 << 31);
}

/// A call of a gateway; on the wire a `StoreCall.tag`, which is not 0: that marks events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    /// The stream of the call.
    pub stream: StreamNumber,
    /// Which of its calls.
    pub call: CallNumber,
}

impl Tag {
    /// On the wire.
    pub fn to_wire(self) -> u64 {
        u64::from(self.stream.0) << 32 | u64::from(self.call.0)
    }

    /// From the wire.
    pub fn from_wire(tag: u64) -> Self {
        let (stream, call) = ((tag >> 32) as u32, tag as u32);
        Self { stream: StreamNumber(stream), call: CallNumber(call) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_comes_back_from_the_wire_as_it_was() {
        for (stream, call) in [(0, 1), (1, 0), (7, 9), (u32::MAX, u32::MAX), (1 << 31, 1)] {
            let tag = Tag { stream: StreamNumber(stream), call: CallNumber(call) };
            assert_eq!(Tag::from_wire(tag.to_wire()), tag);
        }
    }
}
