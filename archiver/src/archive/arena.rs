//! Many byte strings in few allocations: memory stays near what is in it, however it grows.

/// What one block holds; a longer entry gets a block of its own.
const BLOCK: usize = 4 << 20;

/// Byte strings, numbered from 0 in the order in which they were added.
#[derive(Debug, Clone, Default)]
pub(super) struct Arena {
    blocks: Vec<Vec<u8>>,
    places: Vec<Place>,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    block: u32,
    at: u32,
    len: u32,
}

impl Arena {
    /// Adds one, which must be shorter than 4 GiB.
    pub(super) fn push(&mut self, entry: &[u8]) {
        let fits = self.blocks.last().is_some_and(|block| block.len() + entry.len() <= block.capacity());
        if !fits {
            self.blocks.push(Vec::with_capacity(entry.len().max(BLOCK)));
        }
        let block = self.blocks.len() - 1;
        let at = self.blocks[block].len();
        self.blocks[block].extend_from_slice(entry);
        self.places.push(Place { block: block as u32, at: at as u32, len: entry.len() as u32 });
        self.bytes += entry.len();
    }

    /// The entry of this number, which must exist.
    pub(super) fn get(&self, n: usize) -> &[u8] {
        let place = self.places[n];
        &self.blocks[place.block as usize][place.at as usize..][..place.len as usize]
    }

    /// How many entries.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The bytes of all entries.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
