//! Messages: header, types, limits.
//!
//! Xen: `struct xsd_sockmsg` in `public/io/xs_wire.h`.

/// `XENSTORE_PAYLOAD_MAX`: the most bytes that may follow a header, in both directions. A client that sends
/// more loses its connection.
pub const PAYLOAD_MAX: usize = 4096;
/// `XENSTORE_ABS_PATH_MAX`: the longest absolute path, in bytes.
pub const ABS_PATH_MAX: usize = 3072;
/// `XENSTORE_REL_PATH_MAX`: the longest relative path, in bytes.
pub const REL_PATH_MAX: usize = 2048;
/// `sizeof(struct xsd_sockmsg)`.
pub const HEADER_BYTES: usize = 16;

/// `enum xsd_sockmsg_type`. Unknown types are values like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(pub u32);

impl Kind {
    /// Lists a directory.
    pub const DIRECTORY: Self = Self(1);
    /// Reads a node.
    pub const READ: Self = Self(2);
    /// Sets a watch.
    pub const WATCH: Self = Self(4);
    /// Removes a watch.
    pub const UNWATCH: Self = Self(5);
    /// Begins a transaction.
    pub const TRANSACTION_START: Self = Self(6);
    /// Ends a transaction.
    pub const TRANSACTION_END: Self = Self(7);
    /// Writes a node.
    pub const WRITE: Self = Self(11);
    /// Removes a node.
    pub const RM: Self = Self(13);
    /// Tells of a change. Sent without a request.
    pub const WATCH_EVENT: Self = Self(15);
    /// Answers a request that failed.
    pub const ERROR: Self = Self(16);
    /// Removes all watches and transactions.
    pub const RESET_WATCHES: Self = Self(21);
    /// Lists a part of a directory that does not fit one message.
    pub const DIRECTORY_PART: Self = Self(22);
    /// `XS_TYPE_COUNT` of Xen 4.21: the first number that no server sends.
    const COUNT: u32 = 27;
}

/// `struct xsd_sockmsg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub kind: Kind,
    /// The request that a reply belongs to.
    pub req_id: u32,
    /// The transaction, or 0.
    pub tx_id: u32,
    /// Bytes that follow.
    pub len: u32,
}

impl Header {
    /// Reads a header.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.iter_mut().zip(bytes.iter().skip(at)).for_each(|(to, from)| *to = *from);
            u32::from_le_bytes(word)
        };
        Self { kind: Kind(word(0)), req_id: word(4), tx_id: word(8), len: word(12) }
    }

    /// Lays a header out.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let words = [self.kind.0, self.req_id, self.tx_id, self.len];
        let mut bytes = [0; HEADER_BYTES];
        bytes.iter_mut().zip(words.iter().flat_map(|word| word.to_le_bytes())).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The length of the body in bytes, or `None` for a header that no server sends: then the byte stream
    /// is not where we think it is.
    pub fn body_bytes(&self) -> Option<usize> {
        let len = usize::try_from(self.len).ok()?;
        (len <= PAYLOAD_MAX && self.kind.0 < Kind::COUNT).then_some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_four_words_and_reads_back() {
        let header = Header { kind: Kind::WRITE, req_id: 0x0403_0201, tx_id: 7, len: 300 };
        assert_eq!(header.encode(), [11, 0, 0, 0, 1, 2, 3, 4, 7, 0, 0, 0, 44, 1, 0, 0]);
        assert_eq!(Header::decode(header.encode()), header);
    }

    #[test]
    fn a_header_that_no_server_sends_has_no_body() {
        let body = |kind, len| Header { kind: Kind(kind), req_id: 0, tx_id: 0, len }.body_bytes();
        assert_eq!((body(2, 0), body(26, 4096)), (Some(0), Some(4096)));
        assert_eq!((body(2, 4097), body(27, 0), body(0xffff, 0), body(2, u32::MAX)), (None, None, None, None));
    }
}
