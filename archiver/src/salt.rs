//! The secret of one stream, with which it makes digests of what must not be guessed: a plain hash of an `_id` is the `_id` for
//! whoever can try all there may be. Lies in the checkpoint and nowhere else, so never in the archive.

use std::fmt;

use bson::Binary;
use bson::spec::BinarySubtype;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;

use crate::record::hex;

const BYTES: usize = 32;
/// Stands where a BSON type does in the digest of an `_id`, and is none.
const TOKEN: u8 = 0;

/// 32 random bytes. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Salt([u8; BYTES]);

impl Salt {
    /// A new one.
    pub fn random() -> Salt {
        Salt(rand::random())
    }

    /// What a quarantine record says of its document's `_id`: the HMAC-SHA256 of its BSON type byte and value, in hex.
    pub fn id_digest(&self, kind: u8, value: &[u8]) -> String {
        self.digest(kind, value)
    }

    /// Tells events of one cluster time apart: the HMAC-SHA256 of a zero byte and the event's resume token, in hex.
    pub fn token_digest(&self, token: &[u8]) -> String {
        self.digest(TOKEN, token)
    }

    fn digest(&self, kind: u8, value: &[u8]) -> String {
        // A key of any length will do; that of a block is taken as it is.
        let mut block = [0; 64];
        block[..BYTES].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        mac.update(&[kind]);
        mac.update(value);
        hex(&mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[salt]")
    }
}

impl Serialize for Salt {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Binary { subtype: BinarySubtype::Generic, bytes: self.0.to_vec() }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Salt {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes = Binary::deserialize(d)?.bytes;
        Ok(Salt(bytes.try_into().map_err(|_| de::Error::custom("a salt has 32 bytes"))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_hmac_that_others_compute() {
        // python3: hmac.new(bytes(range(32)), b"\x10\x07\x00\x00\x00", "sha256").hexdigest()
        let salt = Salt(std::array::from_fn(|n| n as u8));
        let seven = "4a4bef2837e32bc32b26eebcc6e887a6fd1f6ea3601995bfaaa25b7110c3c2ae";
        assert_eq!(salt.id_digest(0x10, &7_i32.to_le_bytes()), seven);
        assert_ne!(salt.token_digest(&7_i32.to_le_bytes()), seven);
        assert_ne!(Salt::random().id_digest(0x10, &7_i32.to_le_bytes()), seven);
    }

    #[test]
    fn a_salt_is_stored_and_never_shown() {
        let salt = Salt::random();
        let stored = bson::serialize_to_bson(&salt).unwrap();
        assert_eq!(bson::deserialize_from_bson::<Salt>(stored).unwrap(), salt);
        assert_eq!(format!("{salt:?}"), "[salt]");
        let short = Binary { subtype: BinarySubtype::Generic, bytes: vec![1; 31] };
        assert!(bson::deserialize_from_bson::<Salt>(short.into()).is_err());
    }
}
