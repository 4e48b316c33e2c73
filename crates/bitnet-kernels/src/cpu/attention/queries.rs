//! Which queries are computed together, and the room that takes.

use std::ops::Range;

use super::int8::{ByteRoom, ByteRooms, Bytes};
use super::{Attention, ITEMS_PER_THREAD, SPAN, softmax};
use crate::backend::KvShape;
use crate::cpu::isa::LANES;
use crate::cpu::memory::{Disjoint, Memory};
use crate::error::KernelError;

/// Query vectors of one item: 64 with 256 scores each are 64 KiB, and as much again for the sums of bytes, which the L2
/// cache holds beside a head's values of a span.
pub const MOST_QUERIES: usize = 64;

/// Token rows of one item: with one query head to a KV head there is no gain in more.
const MOST_ROWS: usize = 32;

const WHAT: &str = "attention";

/// Token rows of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct Tile {
    /// The first; the others follow it in the batch.
    pub first_row: usize,
    /// How many.
    pub n_rows: usize,
}

/// What an item of work has: a tile with some of its KV heads.
#[derive(Debug, Clone, Copy)]
pub struct TileHeads {
    /// The rows.
    pub tile: Tile,
    /// The first KV head.
    pub first_head: usize,
    /// How many: all of them or one.
    pub n_heads: usize,
}

/// Memory that a call of attention needs; it stays with the cache.
#[derive(Debug)]
pub struct Scratch {
    tiles: Vec<Tile>,
    parts: Vec<TileHeads>,
    rooms: Memory<f32>, // [threads] of `room_len`
    kept: Memory<f32>, // sums of spans that are merged afterwards, `[n, n_heads, n_spans, sums_len]`
    bytes: Bytes,
    shape: KvShape,
}

/// How a call is cut into items.
pub struct Plan<'a> {
    /// Rows and heads that go together.
    pub parts: &'a [TileHeads],
    /// Items: parts, times spans where these are apart.
    pub n_items: usize,
    /// Spans of the longest context.
    pub n_spans: usize,
    /// Whether each span is an item of its own.
    pub apart: bool,
    sums_len: usize,
    rooms: Disjoint<'a, f32>,
    kept: Disjoint<'a, f32>,
    bytes: ByteRooms<'a>,
}

/// One thread's part of the scratch.
pub struct Room<'a> {
    /// `[MOST_QUERIES, SPAN]`: scores, then their exponentials.
    pub scores: &'a mut [f32],
    /// `[MOST_QUERIES, sums_len]`, of the span at hand.
    pub parts: &'a mut [f32],
    wholes: &'a mut [f32], // [MOST_QUERIES, sums_len], of all spans so far
    /// Length of one query's sums.
    pub sums_len: usize,
    /// For a cache of bytes.
    pub bytes: ByteRoom<'a>,
}

impl Scratch {
    /// Room for `threads` threads.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn new(shape: KvShape, threads: usize) -> Result<Scratch, KernelError> {
        let room = room_len(sums_len(shape.head_dim));
        Ok(Scratch {
            tiles: Vec::new(),
            parts: Vec::new(),
            rooms: Memory::zeroed(WHAT, threads * room)?,
            kept: Memory::zeroed(WHAT, 0)?,
            bytes: Bytes::new(WHAT, shape.head_dim, threads)?,
            shape,
        })
    }

    /// Cuts a call into items for `threads` threads.
    ///
    /// # Panics
    /// If there is no memory for the sums of spans.
    pub fn plan(&mut self, call: &Attention<'_>, threads: usize) -> Plan<'_> {
        let n_rows = call.batch.len();
        let n_kv_heads = self.shape.n_kv_heads;
        let wanted = if threads == 1 {
            1
        } else {
            ITEMS_PER_THREAD * threads
        };
        // No wider than leaves every thread its items; the width does not change results.
        let widest = (MOST_QUERIES / call.group())
            .min(MOST_ROWS)
            .min(n_rows * n_kv_heads / wanted)
            .max(1);
        self.tiles.clear();
        self.tiles.reserve(n_rows);
        for row in 0..n_rows {
            match self.tiles.last_mut() {
                Some(Tile { first_row, n_rows })
                    if *n_rows < widest
                        && call.batch.sequences[*first_row] == call.batch.sequences[row] =>
                {
                    *n_rows += 1;
                }
                _ => self.tiles.push(Tile {
                    first_row: row,
                    n_rows: 1,
                }),
            }
        }
        let spans = |tile: &Tile| {
            let rows = tile.first_row..tile.first_row + tile.n_rows;
            rows.map(|row| call.n_spans(row)).max().unwrap_or(0)
        };
        let n_spans = self.tiles.iter().map(spans).max().unwrap_or(0);
        let total: usize = self.tiles.iter().map(spans).sum();
        // Half as many items are enough where they have all heads: the stream gains more than uneven ends cost.
        let enough = wanted.div_ceil(2);
        self.give_heads(call.n_heads, |tile| spans(tile) * enough <= total);
        let apart = n_spans > 1 && self.parts.len() < wanted;
        if apart && total >= enough {
            self.give_heads(call.n_heads, |_| true);
        }
        let mut n_items = self.parts.len();
        let sums_len = sums_len(self.shape.head_dim);
        if apart {
            n_items *= n_spans;
            // Once for all contexts that the cache has room for; pages cost nothing before they are used.
            let most_spans = (self.shape.n_blocks * crate::KV_BLOCK).div_ceil(SPAN);
            self.kept
                .reserve(WHAT, n_rows * call.n_heads * most_spans * sums_len)
                .unwrap_or_else(|error| panic!("{error}"));
        }
        Plan {
            parts: &self.parts,
            n_items,
            n_spans,
            apart,
            sums_len,
            rooms: Disjoint::new(&mut self.rooms),
            kept: Disjoint::new(&mut self.kept),
            bytes: self.bytes.rooms(),
        }
    }

    /// Makes a part of each tile that may have all KV heads and has room for their queries; others are parted by heads.
    fn give_heads(&mut self, n_heads: usize, may: impl Fn(&Tile) -> bool) {
        let n_kv_heads = self.shape.n_kv_heads;
        self.parts.clear();
        self.parts.reserve(self.tiles.len() * n_kv_heads);
        for &tile in &self.tiles {
            let together = tile.n_rows * n_heads <= MOST_QUERIES && may(&tile);
            let n_heads = if together { n_kv_heads } else { 1 };
            let heads = (0..n_kv_heads).step_by(n_heads);
            self.parts.extend(heads.map(|first_head| TileHeads {
                tile,
                first_head,
                n_heads,
            }));
        }
    }
}

impl Plan<'_> {
    /// The room of one thread.
    ///
    /// # Safety
    /// Nobody else has this thread's room.
    #[inline(always)]
    pub unsafe fn room(&self, thread: usize) -> Room<'_> {
        let len = room_len(self.sums_len);
        // SAFETY: the caller's.
        let (room, bytes) =
            unsafe { (self.rooms.range(thread * len, len), self.bytes.room(thread)) };
        let (scores, sums) = room.split_at_mut(MOST_QUERIES * SPAN);
        let (parts, wholes) = sums.split_at_mut(MOST_QUERIES * self.sums_len);
        Room {
            scores,
            parts,
            wholes,
            sums_len: self.sums_len,
            bytes,
        }
    }

    /// Where the sums of one span of head `head` of `[n, n_heads]` are kept.
    ///
    /// # Safety
    /// Nobody else has this place.
    #[inline(always)]
    #[expect(
        clippy::mut_from_ref,
        reason = "the contract makes the places disjoint"
    )]
    pub unsafe fn kept(&self, head: usize, span: usize) -> &mut [f32] {
        let place = head * self.n_spans + span;
        // SAFETY: the caller's.
        unsafe { self.kept.range(place * self.sums_len, self.sums_len) }
    }
}

impl Room<'_> {
    /// The room from query `first` on.
    #[inline(always)]
    pub fn behind(&mut self, first: usize) -> Room<'_> {
        Room {
            scores: &mut self.scores[first * SPAN..],
            parts: &mut self.parts[first * self.sums_len..],
            wholes: &mut self.wholes[first * self.sums_len..],
            sums_len: self.sums_len,
            bytes: self.bytes.behind(first),
        }
    }

    /// Sums of all spans so far, and of the span at hand, of query `i`.
    #[inline(always)]
    pub fn sums(&mut self, i: usize) -> (&mut [f32], &mut [f32]) {
        let range = i * self.sums_len..(i + 1) * self.sums_len;
        (&mut self.wholes[range.clone()], &mut self.parts[range])
    }

    /// Scores and sums of the span at hand of query `i`.
    #[inline(always)]
    pub fn scores_and_sums(&mut self, i: usize) -> (&mut [f32], &mut [f32]) {
        (
            &mut self.scores[i * SPAN..][..SPAN],
            &mut self.parts[i * self.sums_len..][..self.sums_len],
        )
    }

    /// Scores of all queries `[_, SPAN]` and their sums `[_, sums_len]`.
    #[inline(always)]
    pub fn parts(&mut self) -> (&[f32], &mut [f32], usize) {
        (self.scores, self.parts, self.sums_len)
    }
}

/// Floats of one query's sums: whole vectors of a value, then a vector with the maximum and the sum of weights.
fn sums_len(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES) + softmax::STATE
}

fn room_len(sums_len: usize) -> usize {
    MOST_QUERIES * (SPAN + 2 * sums_len)
}

/// Some KV heads with some of the queries of each, which are as many for every head: what an item computes at a time.
pub struct Heads<'a> {
    /// The call.
    pub call: &'a Attention<'a>,
    /// Rows and KV heads.
    pub part: TileHeads,
    /// Queries of each head, of `[rows, group]`.
    pub queries: Range<usize>,
}

impl<'a> Heads<'a> {
    /// The queries of KV head `h` of these.
    #[inline(always)]
    pub fn queries(&self, h: usize) -> Queries<'a> {
        Queries::new(
            self.call,
            self.part.tile,
            self.part.first_head + h,
            self.queries.start,
            self.queries.len(),
        )
    }

    /// The room of head `h`: behind that of the heads before it.
    #[inline(always)]
    pub fn room<'r>(&self, h: usize, room: &'r mut Room<'_>) -> Room<'r> {
        room.behind(h * self.queries.len())
    }
}

/// Some query heads of one KV head and some rows of one sequence: `len` of `[rows, group]`.
pub struct Queries<'a> {
    call: &'a Attention<'a>,
    tile: Tile,
    kv_head: usize,
    first: usize,
    len: usize,
}

impl<'a> Queries<'a> {
    /// Queries `first..first + len` of `[tile.n_rows, group]`.
    #[inline(always)]
    pub fn new(
        call: &'a Attention<'a>,
        tile: Tile,
        kv_head: usize,
        first: usize,
        len: usize,
    ) -> Self {
        Queries {
            call,
            tile,
            kv_head,
            first,
            len,
        }
    }

    /// How many.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Length of a query.
    #[inline(always)]
    pub fn head_dim(&self) -> usize {
        self.call.cache.shape().head_dim
    }

    /// Positions that the last of them sees.
    #[inline(always)]
    pub fn most_seen(&self) -> usize {
        (0..self.len)
            .map(|i| self.seen_of_all(i))
            .max()
            .unwrap_or(0)
    }

    /// Positions that query `i` sees.
    #[inline(always)]
    fn seen_of_all(&self, i: usize) -> usize {
        self.call.batch.positions[self.row(i)] as usize + 1
    }

    #[inline(always)]
    fn row(&self, i: usize) -> usize {
        self.tile.first_row + (self.first + i) / self.call.group()
    }

    /// Which head of `[n, n_heads]` query `i` is.
    #[inline(always)]
    pub fn index(&self, i: usize) -> usize {
        let group = self.call.group();
        self.row(i) * self.call.n_heads + self.kv_head * group + (self.first + i) % group
    }

    /// Query `i`, `[head_dim]`.
    #[inline(always)]
    pub fn get(&self, i: usize) -> &'a [f32] {
        let head_dim = self.head_dim();
        &self.call.q[self.index(i) * head_dim..][..head_dim]
    }

    /// Positions of the span from `start` on that query `i` sees.
    #[inline(always)]
    pub fn seen(&self, i: usize, start: usize) -> usize {
        self.seen_of_all(i).saturating_sub(start).min(SPAN)
    }
}
