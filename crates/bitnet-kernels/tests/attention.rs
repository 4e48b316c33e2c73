//! Attention over the paged cache: right, and a function of the row's own sequence alone.

mod support;

use bitnet_kernels::{Backend, BatchView, CpuBackend, KV_BLOCK, KvShape, KvType};
use support::{Random, backend, backends, bits, buffer};

const LAYERS: usize = 2;
const BLOCKS: usize = 35;

/// Heads, their length and the storage of one model.
#[derive(Clone, Copy, Debug)]
struct Heads {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    kv_type: KvType,
}

/// One sequence: queries, keys and values of all its positions, and its physical blocks.
struct Sequence {
    q: Vec<f32>, // [len, n_heads * head_dim]
    k: Vec<f32>, // [len, n_kv_heads * head_dim]
    v: Vec<f32>,
    blocks: Vec<u32>,
}

impl Heads {
    fn cache(self, backend: &CpuBackend) -> <CpuBackend as Backend>::KvCache {
        let Heads {
            n_kv_heads,
            head_dim,
            kv_type,
            ..
        } = self;
        let shape = KvShape {
            n_layers: LAYERS,
            n_blocks: BLOCKS,
            n_kv_heads,
            head_dim,
            kv_type,
        };
        backend.new_kv_cache(shape).unwrap()
    }

    fn sequence(self, len: usize, blocks: &[u32], random: &mut Random) -> Sequence {
        let (q, kv) = (
            len * self.n_heads * self.head_dim,
            len * self.n_kv_heads * self.head_dim,
        );
        let scaled = |floats: Vec<f32>| floats.into_iter().map(|v| 2.0 * v).collect();
        Sequence {
            q: scaled(random.floats(q)),
            k: scaled(random.floats(kv)),
            v: random.floats(kv),
            blocks: blocks.to_vec(),
        }
    }
}

impl Heads {
    /// f32 scores of up to some tens: their rounding moves the weights by 1e-6. Bytes move scores by 1 %.
    fn tolerance(self) -> f64 {
        match self.kv_type {
            KvType::F32 | KvType::F16 => 1e-5,
            KvType::I8 => 0.05,
        }
    }
}

/// Runs rows (sequence, position) as one batch.
fn run(
    backend: &CpuBackend,
    heads: Heads,
    cache: &mut <CpuBackend as Backend>::KvCache,
    sequences: &[&Sequence],
    rows: &[(usize, usize)],
) -> Vec<f32> {
    let gather = |of: fn(&Sequence) -> &Vec<f32>, n: usize| -> Vec<f32> {
        let len = n * heads.head_dim;
        rows.iter()
            .flat_map(|&(s, p)| of(sequences[s])[p * len..][..len].to_vec())
            .collect()
    };
    let q = buffer(backend, &gather(|s| &s.q, heads.n_heads));
    let k = buffer(backend, &gather(|s| &s.k, heads.n_kv_heads));
    let v = buffer(backend, &gather(|s| &s.v, heads.n_kv_heads));
    let positions: Vec<u32> = rows.iter().map(|row| row.1 as u32).collect();
    let indices: Vec<u32> = rows.iter().map(|row| row.0 as u32).collect();
    let mut offsets = vec![0];
    let mut tables = vec![];
    for sequence in sequences {
        tables.extend(&sequence.blocks);
        offsets.push(tables.len() as u32);
    }
    let batch = BatchView {
        positions: &positions,
        sequences: &indices,
        table_offsets: &offsets,
        block_tables: &tables,
    };
    let mut out = backend.buffer(q.len()).unwrap();
    for layer in 0..LAYERS {
        backend.kv_write(cache, layer, &k, &v, &batch);
        backend.attention(&q, cache, layer, heads.n_heads, &batch, &mut out);
    }
    out.to_vec()
}

/// Attention of one row in f64.
fn reference(heads: Heads, sequence: &Sequence, position: usize) -> Vec<f64> {
    let Heads {
        n_heads,
        n_kv_heads,
        head_dim,
        kv_type,
    } = heads;
    let stored = |v: f32| match kv_type {
        KvType::F32 | KvType::I8 => f64::from(v),
        KvType::F16 => f64::from(half::f16::from_f32(v)),
    };
    let mut out = vec![];
    for head in 0..n_heads {
        let q = &sequence.q[(position * n_heads + head) * head_dim..][..head_dim];
        let at = |p: usize| (p * n_kv_heads + head / (n_heads / n_kv_heads)) * head_dim;
        let scores: Vec<f64> = (0..=position)
            .map(|p| {
                let k = &sequence.k[at(p)..][..head_dim];
                q.iter()
                    .zip(k)
                    .map(|(&q, &k)| f64::from(q) * stored(k))
                    .sum::<f64>()
                    / (head_dim as f64).sqrt()
            })
            .collect();
        let max = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        out.extend((0..head_dim).map(|d| {
            weights
                .iter()
                .enumerate()
                .map(|(p, w)| w * stored(sequence.v[at(p) + d]))
                .sum::<f64>()
                / sum
        }));
    }
    out
}

const HEADS: [Heads; 12] = [
    Heads {
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 1,
        kv_type: KvType::F32,
    },
    Heads {
        n_heads: 3,
        n_kv_heads: 1,
        head_dim: 15,
        kv_type: KvType::F32,
    },
    Heads {
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 64,
        kv_type: KvType::F32,
    },
    Heads {
        n_heads: 20,
        n_kv_heads: 4,
        head_dim: 48,
        kv_type: KvType::F16,
    },
    Heads {
        n_heads: 7,
        n_kv_heads: 1,
        head_dim: 33,
        kv_type: KvType::F16,
    },
    Heads {
        n_heads: 4,
        n_kv_heads: 1,
        head_dim: 128,
        kv_type: KvType::F32,
    },
    // More query heads to a KV head than an item of work takes.
    Heads {
        n_heads: 71,
        n_kv_heads: 1,
        head_dim: 4,
        kv_type: KvType::F32,
    },
    Heads {
        n_heads: 2,
        n_kv_heads: 2,
        head_dim: 40,
        kv_type: KvType::F32,
    },
    Heads {
        n_heads: 8,
        n_kv_heads: 2,
        head_dim: 64,
        kv_type: KvType::I8,
    },
    Heads {
        n_heads: 7,
        n_kv_heads: 1,
        head_dim: 33,
        kv_type: KvType::I8,
    },
    Heads {
        n_heads: 2,
        n_kv_heads: 2,
        head_dim: 128,
        kv_type: KvType::I8,
    },
    Heads {
        n_heads: 3,
        n_kv_heads: 1,
        head_dim: 15,
        kv_type: KvType::I8,
    },
];

#[test]
fn attention_is_right_at_odd_lengths() {
    let mut random = Random::new(1);
    for heads in HEADS {
        for backend in backends(2) {
            let sequence = heads.sequence(50, &[7, 0, 23, 11], &mut random);
            let rows: Vec<(usize, usize)> = (0..50).map(|p| (0, p)).collect();
            let mut cache = heads.cache(&backend);
            let found = run(&backend, heads, &mut cache, &[&sequence], &rows);
            let row_len = heads.n_heads * heads.head_dim;
            for (position, found) in found.chunks(row_len).enumerate() {
                for (found, expected) in found.iter().zip(reference(heads, &sequence, position)) {
                    let error = (f64::from(*found) - expected).abs();
                    assert!(
                        error < heads.tolerance(),
                        "{} {heads:?} position {position}: {found} {expected}",
                        backend.kernel_name()
                    );
                }
            }
        }
    }
}

#[test]
fn batches_chunks_kernels_and_threads_change_nothing() {
    let mut random = Random::new(2);
    let everywhere: Vec<CpuBackend> = (1..=3).flat_map(backends).collect();
    for heads in HEADS {
        let a = heads.sequence(45, &[3, 19, 5], &mut random);
        let b = heads.sequence(33, &[8, 1, 22], &mut random);
        let first = &backend("scalar-i2s", 1);
        // Alone, position by position.
        let alone = |sequence: &Sequence, len: usize| -> Vec<f32> {
            let mut cache = heads.cache(first);
            (0..len)
                .flat_map(|p| run(first, heads, &mut cache, &[sequence], &[(0, p)]))
                .collect()
        };
        let expected = [bits(&alone(&a, 45)), bits(&alone(&b, 33))];
        let row_len = heads.n_heads * heads.head_dim;
        for backend in &everywhere {
            for chunk in [1, 7, 16, 64] {
                let mut cache = heads.cache(backend);
                let mut found = [vec![], vec![]];
                let (mut next_a, mut next_b) = (0, 0);
                // Chunks of one sequence mixed with single rows of the other.
                while next_a < 45 || next_b < 33 {
                    let mut rows: Vec<(usize, usize)> =
                        (next_a..45.min(next_a + chunk)).map(|p| (0, p)).collect();
                    rows.extend((next_b..33.min(next_b + 1)).map(|p| (1, p)));
                    let out = run(backend, heads, &mut cache, &[&a, &b], &rows);
                    for (&(sequence, _), out) in rows.iter().zip(out.chunks(row_len)) {
                        found[sequence].extend(bits(out));
                    }
                    (next_a, next_b) = (45.min(next_a + chunk), 33.min(next_b + 1));
                }
                assert_eq!(
                    found,
                    expected,
                    "{} {} threads {heads:?} by {chunk}",
                    backend.kernel_name(),
                    backend.threads()
                );
            }
        }
    }
}

/// A head whose vectors of 16 dimensions are no whole number of those that are added up at a time.
const WIDE: Heads = Heads {
    n_heads: 1,
    n_kv_heads: 1,
    head_dim: 112,
    kv_type: KvType::I8,
};

/// Several narrow KV heads of every type.
const SEVERAL: [Heads; 3] = {
    const fn of(kv_type: KvType) -> Heads {
        Heads {
            n_heads: 6,
            n_kv_heads: 3,
            head_dim: 9,
            kv_type,
        }
    }
    [of(KvType::F32), of(KvType::F16), of(KvType::I8)]
};

/// One token of each of many sequences, one of which has most of the work.
#[test]
fn tokens_of_uneven_contexts_are_what_they_are_alone() {
    const LENS: [usize; 8] = [300, 9, 20, 5, 33, 12, 7, 16];
    let mut random = Random::new(5);
    for heads in SEVERAL {
        let mut free = (0..BLOCKS as u32).rev();
        let sequences = LENS.map(|len| {
            let blocks: Vec<u32> = free.by_ref().take(len.div_ceil(KV_BLOCK)).collect();
            heads.sequence(len, &blocks, &mut random)
        });
        let sequences: Vec<&Sequence> = sequences.iter().collect();
        let last: Vec<(usize, usize)> = LENS.iter().map(|len| len - 1).enumerate().collect();
        let mut expected: Option<Vec<u32>> = None;
        for backend in (1..=3).flat_map(backends) {
            let mut cache = heads.cache(&backend);
            for (s, len) in LENS.into_iter().enumerate() {
                let rows: Vec<(usize, usize)> = (0..len - 1).map(|p| (s, p)).collect();
                run(&backend, heads, &mut cache, &sequences, &rows);
            }
            let expected = expected.get_or_insert_with(|| {
                let mut alone = |&row| run(&backend, heads, &mut cache, &sequences, &[row]);
                last.iter().flat_map(|row| bits(&alone(row))).collect()
            });
            for n in [2, 5, 8] {
                let found = run(&backend, heads, &mut cache, &sequences, &last[..n]);
                assert_eq!(
                    bits(&found),
                    expected[..found.len()],
                    "{} {} threads {heads:?}, {n} sequences",
                    backend.kernel_name(),
                    backend.threads()
                );
            }
        }
    }
}

/// Contexts of several spans of 256 positions: chunks of many rows, single rows, and both with few and many threads.
#[test]
fn long_contexts_are_right_however_they_are_cut() {
    const LEN: usize = 550;
    let mut random = Random::new(4);
    // Narrow heads of every type, one KV head and several, and one of bytes with more dimensions than are added up at a time:
    // emulated processors run this too.
    let one_head = [HEADS[1], HEADS[4], HEADS[11], WIDE];
    for heads in one_head.into_iter().chain(SEVERAL) {
        let blocks: Vec<u32> = (0..35).map(|b| (b * 11 + 3) % 35).collect();
        let sequence = heads.sequence(LEN, &blocks, &mut random);
        let mut expected: Option<Vec<u32>> = None;
        for backend in [1, 3].into_iter().flat_map(backends) {
            for chunks in [vec![LEN], vec![300, 1, 1, 5, 210, 33]] {
                let mut cache = heads.cache(&backend);
                let mut next = 0;
                let mut found = vec![];
                for chunk in chunks {
                    let rows: Vec<(usize, usize)> = (next..next + chunk).map(|p| (0, p)).collect();
                    found.extend(run(&backend, heads, &mut cache, &[&sequence], &rows));
                    next += chunk;
                }
                let found_bits = bits(&found);
                if let Some(expected) = &expected {
                    assert_eq!(
                        &found_bits,
                        expected,
                        "{} {} threads {heads:?}",
                        backend.kernel_name(),
                        backend.threads()
                    );
                    continue;
                }
                for position in [255, 256, 300, 511, 512, LEN - 1] {
                    let row_len = heads.n_heads * heads.head_dim;
                    let row = &found[position * row_len..][..row_len];
                    for (found, expected) in row.iter().zip(reference(heads, &sequence, position)) {
                        let error = (f64::from(*found) - expected).abs();
                        assert!(
                            error < heads.tolerance(),
                            "{heads:?} position {position}: {found} {expected}"
                        );
                    }
                }
                expected = Some(found_bits);
            }
        }
    }
}

#[test]
fn one_far_ahead_position_dominates_without_overflow() {
    for backend in backends(1) {
        let heads = HEADS[2];
        let len = 2 * KV_BLOCK + 3;
        let mut sequence = heads.sequence(len, &[0, 1, 2], &mut Random::new(3));
        // Key and query of the last position are parallel and huge: its weight is 1 and all others underflow to 0.
        let (q_len, kv_len) = (
            heads.n_heads * heads.head_dim,
            heads.n_kv_heads * heads.head_dim,
        );
        sequence.q[(len - 1) * q_len..].fill(100.0);
        sequence.k[(len - 1) * kv_len..].fill(100.0);
        let mut cache = heads.cache(&backend);
        let rows: Vec<(usize, usize)> = (0..len).map(|p| (0, p)).collect();
        let out = run(&backend, heads, &mut cache, &[&sequence], &rows);
        let group = heads.n_heads / heads.n_kv_heads;
        for (head, out) in out[(len - 1) * q_len..].chunks(heads.head_dim).enumerate() {
            let v =
                &sequence.v[(len - 1) * kv_len + head / group * heads.head_dim..][..heads.head_dim];
            assert_eq!(out, v, "{}", backend.kernel_name());
        }
    }
}

/// Bytes: the scale is worth 127, so values that are multiples of it come back exactly.
#[test]
fn a_cache_of_bytes_keeps_what_bytes_can_hold() {
    for backend in backends(1) {
        let heads = HEADS[8];
        let mut sequence = heads.sequence(1, &[5], &mut Random::new(6));
        for (i, v) in sequence.v.iter_mut().enumerate() {
            *v = (i as i32 % 255 - 127) as f32 / 127.0;
        }
        sequence
            .v
            .chunks_mut(heads.head_dim)
            .for_each(|v| v[0] = 1.0);
        let mut cache = heads.cache(&backend);
        let out = run(&backend, heads, &mut cache, &[&sequence], &[(0, 0)]);
        let group = heads.n_heads / heads.n_kv_heads;
        for (head, out) in out.chunks(heads.head_dim).enumerate() {
            let v = &sequence.v[head / group * heads.head_dim..][..heads.head_dim];
            for (out, v) in out.iter().zip(v) {
                assert!(
                    (out - v).abs() < 1e-6,
                    "{}: {out} {v}",
                    backend.kernel_name()
                );
            }
        }
    }
}

#[test]
fn numbers_that_are_none_show_in_a_cache_of_bytes() {
    for backend in backends(1) {
        let heads = HEADS[8];
        let mut sequence = heads.sequence(1, &[5], &mut Random::new(7));
        sequence.v[3] = f32::INFINITY;
        let mut cache = heads.cache(&backend);
        let out = run(&backend, heads, &mut cache, &[&sequence], &[(0, 0)]);
        assert!(out[0].is_nan(), "{}", backend.kernel_name());
        let other = &out[heads.n_heads / 2 * heads.head_dim..];
        assert!(other.iter().all(|v| v.is_finite()), "the other KV head");
    }
}

#[test]
fn blocks_that_are_forgotten_leave_their_neighbours_alone() {
    const LEN: usize = 40;
    let mut random = Random::new(8);
    for kv_type in KvType::ALL {
        // Megabytes: smaller areas are not given back.
        let heads = Heads {
            n_heads: 8,
            n_kv_heads: 8,
            head_dim: 128,
            kv_type,
        };
        let kept = heads.sequence(LEN, &[1, 3, 16], &mut random);
        let gone = heads.sequence(LEN, &[0, 2, 17], &mut random);
        let rows: Vec<(usize, usize)> = (0..2 * LEN).map(|i| (i / LEN, i % LEN)).collect();
        for backend in backends(1) {
            let mut cache = heads.cache(&backend);
            let all = run(&backend, heads, &mut cache, &[&kept, &gone], &rows);
            for blocks in [0..1, 2..3, 17..BLOCKS as u32] {
                backend.forget_kv(&mut cache, blocks);
            }
            let last = run(&backend, heads, &mut cache, &[&kept], &[(0, LEN - 1)]);
            let row_len = heads.n_heads * heads.head_dim;
            assert_eq!(
                bits(&last),
                bits(&all[(LEN - 1) * row_len..][..row_len]),
                "{} {kv_type:?}",
                backend.kernel_name()
            );
        }
    }
}

#[test]
fn caches_of_impossible_size_are_errors() {
    let backend = &backends(1)[0];
    for (n_layers, n_blocks) in [(usize::MAX / 2, 3), (1 << 20, 1 << 32)] {
        let shape = KvShape {
            n_layers,
            n_blocks,
            n_kv_heads: 8,
            head_dim: 128,
            kv_type: KvType::F16,
        };
        let error = backend
            .new_kv_cache(shape)
            .err()
            .expect("no machine has that much")
            .to_string();
        assert!(error.contains("KV cache"), "{error}");
    }
}
