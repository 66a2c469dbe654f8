//! The Merkle tree of RFC 6962 (2.1) over a segment's records, built as they stream past.

use sha2::{Digest, Sha256};

use crate::record::Sha;

/// Builds a Merkle root from leaf hashes in order; holds one hash per level, whatever the number of leaves.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// The roots of the complete subtrees so far, with their sizes: each a power of two, falling.
    subtrees: Vec<(u64, Sha)>,
}

impl Tree {
    /// Appends one leaf's hash: `SHA256(0x00 ‖ leaf)`, as [`crate::record::Record::leaf`] gives it.
    pub fn push(&mut self, leaf: Sha) {
        let (mut size, mut hash) = (1, leaf);
        while let Some((_, left)) = self.subtrees.pop_if(|(last, _)| *last == size) {
            hash = node(&left, &hash);
            size *= 2;
        }
        self.subtrees.push((size, hash));
    }

    /// The root of the leaves so far; of none at all: the hash of nothing.
    pub fn root(&self) -> Sha {
        let hashes = self.subtrees.iter().map(|(_, hash)| *hash);
        hashes.rev().reduce(|right, left| node(&left, &right)).unwrap_or_else(|| Sha256::digest([]).into())
    }
}

impl FromIterator<Sha> for Tree {
    fn from_iter<I: IntoIterator<Item = Sha>>(leaves: I) -> Self {
        let mut tree = Tree::default();
        leaves.into_iter().for_each(|leaf| tree.push(leaf));
        tree
    }
}

fn node(left: &Sha, right: &Sha) -> Sha {
    let mut hash = Sha256::new();
    hash.update([1]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

/// The SHA-256 of these bytes.
pub fn sha256(bytes: &[u8]) -> Sha {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::hex;

    fn leaf(bytes: &[u8]) -> Sha {
        sha256(&[&[0], bytes].concat())
    }

    /// The definition, word for word: split at the largest power of two below n.
    fn by_definition(leaves: &[Sha]) -> Sha {
        match leaves {
            [] => sha256(&[]),
            [one] => *one,
            many => {
                let split = many.len().next_power_of_two() / 2;
                node(&by_definition(&many[..split]), &by_definition(&many[split..]))
            }
        }
    }

    /// The known answers of Certificate Transparency's own test suite (its eight test leaves).
    #[test]
    fn known_answers_hold() {
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let expected = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = Tree::default();
        assert_eq!(hex(&tree.root()), expected[0]);
        for (input, expected) in inputs.iter().zip(&expected[1..]) {
            tree.push(leaf(input));
            assert_eq!(hex(&tree.root()), *expected);
        }
    }

    #[test]
    fn streaming_agrees_with_the_definition() {
        let leaves: Vec<Sha> = (0..300_u32).map(|n| leaf(&n.to_le_bytes())).collect();
        for n in 0..=leaves.len() {
            let tree: Tree = leaves[..n].iter().copied().collect();
            assert_eq!(tree.root(), by_definition(&leaves[..n]), "{n} leaves");
        }
    }
}
