//! The head's small copy: no bound is ever broken, and whoever the full head would keep is a candidate with its bits.

mod support;

use bitnet_kernels::cpu::dense::{Matrix, dot_rows};
use bitnet_kernels::cpu::head::HeadCopy;
use bitnet_kernels::cpu::head::hidden::Hidden;
use bitnet_kernels::cpu::head::refine::Refine;
use bitnet_kernels::cpu::head::scan::{Scores, scan};
use bitnet_kernels::cpu::isa::Kernel;
use bitnet_kernels::cpu::threads::Pool;
use bitnet_kernels::{Backend, CandidateRequest, Candidates, CpuBackend, Keep, MatrixData};
use bitnet_quantization::TensorType;
use support::{Random, backends, buffer};

/// Rows of every kind that a file may hold: plain, tiny, zero, with an outlier, huge, infinite, not a number.
fn hard_rows(rows: usize, cols: usize, random: &mut Random) -> Vec<f32> {
    let mut values = Vec::with_capacity(rows * cols);
    for row in 0..rows {
        let scale = match row % 16 {
            0 => 0.0,
            1 => 1e-38,
            2 => 1e-42,
            3 => 1e-20,
            4 => 1e15,
            5 => 1e25,
            6 => 1e-9,
            _ => 0.05,
        };
        let start = values.len();
        values.extend(random.floats(cols).iter().map(|v| v * scale));
        let at = random.below(cols as u64) as usize;
        match row % 64 {
            10 => values[start + at] = 40.0,
            11 => values[start + at] = f32::INFINITY,
            12 => values[start + at] = f32::NAN,
            13 => values[start + at] = 3e38,
            14 => values[start + at] = 1e-45,
            15 => values[start + at] = 1e4,
            _ => {}
        }
    }
    values
}

/// Hidden states: plain, with outliers, zero, tiny, large, one that is mostly zero.
fn hard_hidden(n: usize, cols: usize, random: &mut Random) -> Vec<f32> {
    let mut values = Vec::with_capacity(n * cols);
    for row in 0..n {
        let scale = [1.0, 7.0, 0.0, 1e-38, 1e12, 1e-43][row % 6];
        let start = values.len();
        values.extend(random.floats(cols).iter().map(|v| v * scale));
        if row % 5 == 1 {
            values[start + random.below(cols as u64) as usize] = 300.0;
        }
        if row % 5 == 3 {
            values[start..].iter_mut().step_by(2).for_each(|v| *v = 0.0);
        }
    }
    values
}

fn matrix(ty: TensorType, rows: usize, cols: usize, bytes: Vec<u8>) -> Matrix {
    Matrix::new(MatrixData {
        ty,
        rows,
        cols,
        bytes: bytes.into(),
    })
    .unwrap()
}

fn f32_matrix(rows: usize, cols: usize, values: &[f32]) -> Matrix {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    matrix(TensorType::F32, rows, cols, bytes)
}

/// Random stored rows of a type, scales finite.
fn stored(ty: TensorType, rows: usize, cols: usize, random: &mut Random) -> Option<Matrix> {
    let n = ty.storage_bytes((rows * cols) as u64)? as usize;
    let mut bytes: Vec<u8> = (0..n).map(|_| random.below(256) as u8).collect();
    let scales: &[usize] = match ty {
        TensorType::Q4_1 | TensorType::Q4K | TensorType::Q5K => &[0, 2],
        TensorType::Q6K => &[208],
        TensorType::Tq1_0 => &[52],
        TensorType::Tq2_0 => &[64],
        TensorType::Ptq1_0 => &[26],
        TensorType::I2S => &[],
        _ => &[0],
    };
    if ty == TensorType::F32 {
        return Some(f32_matrix(rows, cols, &random.floats(rows * cols)));
    }
    if ty == TensorType::I2S {
        bytes.iter_mut().for_each(|b| *b &= 0b1010_1010);
        let at = rows * cols / 4;
        bytes[at..][..4].copy_from_slice(&0.37f32.to_le_bytes());
    }
    for block in bytes.chunks_exact_mut(ty.block_bytes()) {
        for at in scales {
            block[at + 1] &= 0xbf;
        }
    }
    Some(matrix(ty, rows, cols, bytes))
}

/// Checks every bound of the scan and of the refinement; returns the estimates.
fn check_bounds(kernel: Kernel, pool: &Pool, w: &Matrix, x: &[f32], n: usize) -> Vec<u32> {
    let (rows, cols) = (w.rows(), w.cols());
    let copy = HeadCopy::new(kernel, pool, w).unwrap();
    let mut hidden = Hidden::new().unwrap();
    let x_rows: Vec<u32> = (0..n as u32).collect();
    hidden.quantize(x, &x_rows, cols, kernel.panel()).unwrap();
    let mut scores = Scores::new().unwrap();
    scores.reserve(n, copy.n_strips()).unwrap();
    scan(kernel, pool, &copy, &hidden, &mut scores);
    let all: Vec<u32> = (0..rows as u32).collect();
    let tame: Vec<u32> = all
        .iter()
        .copied()
        .filter(|row| !copy.wild().contains(row))
        .collect();
    let mut logits = vec![0.0; rows];
    let mut refined = vec![0.0; tame.len()];
    let mut bits = Vec::new();
    for index in 0..n {
        if !hidden.row(index).tame {
            continue;
        }
        let estimates = &scores.estimates[index * copy.n_strips()..][..copy.n_strips()];
        let uppers = &scores.uppers[index * copy.n_strips()..][..copy.n_strips()];
        dot_rows(
            kernel,
            pool,
            w,
            &x[index * cols..][..cols],
            &all,
            &mut logits,
        );
        kernel.run(Refine {
            copy: &copy,
            hidden: &hidden,
            index,
            rows: &tame,
            estimates,
            uppers: &mut refined,
        });
        for (&row, &refined) in tame.iter().zip(&refined) {
            let logit = f64::from(logits[row as usize]);
            let estimate = f64::from(estimates.as_flattened()[row as usize]);
            let upper = f64::from(uppers.as_flattened()[row as usize]);
            let bound = upper - estimate;
            let what = format!("{} {} [{rows}, {cols}] row {row}", kernel.name(), w.ty());
            assert!(
                logit <= upper && logit >= estimate - bound * 1.0001,
                "{what}: {logit} is not within {bound} of {estimate}"
            );
            assert!(
                logit <= f64::from(refined),
                "{what}: {logit} is above the refined {refined}"
            );
        }
        bits.extend(estimates.as_flattened()[..rows].iter().map(|v| v.to_bits()));
        bits.extend(refined.iter().map(|v| v.to_bits()));
    }
    bits
}

#[test]
fn no_logit_is_beyond_its_bound_and_kernels_agree_on_estimates() {
    let mut random = Random::new(5);
    let pool = Pool::new(2).unwrap();
    for cols in [1, 16, 100, 128, 129, 300, 640] {
        let rows = 128 + random.below(40) as usize;
        let w = f32_matrix(rows, cols, &hard_rows(rows, cols, &mut random));
        for n in [1, 3, 4, 5, 6, 16, 19] {
            let x = hard_hidden(n, cols, &mut random);
            let mut expected = None;
            for kernel in Kernel::available() {
                let bits = check_bounds(kernel, &pool, &w, &x, n);
                let expected = expected.get_or_insert_with(|| bits.clone());
                assert!(*expected == bits, "{} {cols} {n}", kernel.name());
            }
        }
    }
}

#[test]
fn bounds_hold_for_every_storage_type() {
    let mut random = Random::new(6);
    let pool = Pool::new(1).unwrap();
    for &ty in TensorType::ALL {
        let (rows, cols) = (70, 512);
        let w = stored(ty, rows, cols, &mut random).unwrap();
        let x = hard_hidden(6, cols, &mut random);
        for kernel in Kernel::available() {
            check_bounds(kernel, &pool, &w, &x, 6);
        }
    }
}

/// The ids that a keep rule keeps of a full row, without the named ones.
fn kept(row: &[f32], keep: Keep, named: &[u32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..row.len() as u32)
        .filter(|id| !named.contains(id))
        .collect();
    ids.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
    match keep {
        Keep::Best(k) => {
            let last = row[ids[k as usize - 1] as usize];
            ids.retain(|&id| row[id as usize] >= last);
        }
        Keep::Near(distance) => {
            let best = f64::from(row[ids[0] as usize]);
            ids.retain(|&id| f64::from(row[id as usize]) >= best - f64::from(distance));
        }
    }
    ids
}

fn check_candidates(backend: &CpuBackend, w: &Matrix, x: &[f32], n: usize, random: &mut Random) {
    let copy = backend
        .upload_head_copy(w, 0)
        .unwrap()
        .expect("rows enough");
    let (rows, cols) = (w.rows(), w.cols());
    let x = buffer(backend, x);
    // Any order, some rows twice.
    let x_rows: Vec<u32> = (0..n as u32).map(|i| (i * 5 + 2) % n as u32).collect();
    let keeps: Vec<Keep> = (0..n)
        .map(|i| {
            [
                Keep::Best(1),
                Keep::Best(40),
                Keep::Near(3.0),
                Keep::Best(7),
            ][i % 4]
        })
        .collect();
    let (mut named, mut named_offsets) = (Vec::new(), vec![0]);
    for i in 0..n {
        named.extend((0..i % 3 * 20).map(|_| random.below(rows as u64) as u32));
        named_offsets.push(named.len() as u32);
    }
    let request = CandidateRequest {
        x_rows: &x_rows,
        keeps: &keeps,
        named_offsets: &named_offsets,
        named: &named,
    };
    let mut out = Candidates::default();
    backend.head_candidates(w, &copy, &x, &request, &mut out);
    let mut full = backend.buffer(n * rows).unwrap();
    backend.matmul(w, &x, &x_rows, &mut full);
    assert_eq!(out.rows.len(), n);
    for (i, range) in out.rows.iter().enumerate() {
        let Some(range) = range else { continue };
        let row = &full[i * rows..][..rows];
        let found = &out.entries[range.clone()];
        assert!(found.is_sorted_by(|a, b| a.id < b.id));
        for candidate in found {
            assert_eq!(
                candidate.logit.to_bits(),
                row[candidate.id as usize].to_bits(),
                "{} {cols}",
                backend.kernel_name()
            );
        }
        let mut wanted = kept(row, keeps[i], request.named_of(i));
        wanted.extend_from_slice(request.named_of(i));
        for id in wanted {
            assert!(
                found.binary_search_by_key(&id, |c| c.id).is_ok(),
                "{}: {id} of row {i} is missing, {:?}",
                backend.kernel_name(),
                keeps[i]
            );
        }
    }
    assert!(
        out.rows.iter().flatten().count() * 2 >= n,
        "most rows are searched"
    );
}

#[test]
fn whoever_the_full_head_would_keep_is_a_candidate() {
    let mut random = Random::new(7);
    let rows = 4096 + 37;
    for (n, cols) in [(1, 256), (2, 100), (5, 384), (17, 129)] {
        let mut values = random.floats(rows * cols);
        // Ties at the top, outliers and odd rows.
        let copy = values[..cols].to_vec();
        values[100 * cols..][..cols].copy_from_slice(&copy);
        values[50 * cols..51 * cols]
            .iter_mut()
            .for_each(|v| *v *= 9.0);
        values[60 * cols..61 * cols].fill(0.0);
        let w = f32_matrix(rows, cols, &values);
        let x = random.floats(n * cols);
        for backend in &backends(2) {
            check_candidates(backend, &w, &x, n, &mut random);
        }
    }
    for ty in [TensorType::F16, TensorType::Q6K, TensorType::Q2_0] {
        let w = stored(ty, rows, 512, &mut random).unwrap();
        let x = random.floats(6 * 512);
        for backend in &backends(1) {
            check_candidates(backend, &w, &x, 6, &mut random);
        }
    }
}

#[test]
fn rows_that_are_no_numbers_are_always_candidates() {
    let mut random = Random::new(8);
    let (rows, cols) = (4100, 256);
    let mut values = random.floats(rows * cols);
    values[7 * cols] = f32::NAN;
    values[4099 * cols + 3] = f32::NEG_INFINITY;
    values[2000 * cols + 9] = 1e30;
    let w = f32_matrix(rows, cols, &values);
    let x = random.floats(cols);
    for backend in &backends(1) {
        let copy = backend.upload_head_copy(&w, 0).unwrap().unwrap();
        let request = CandidateRequest {
            x_rows: &[0],
            keeps: &[Keep::Best(1)],
            named_offsets: &[0, 0],
            named: &[],
        };
        let mut out = Candidates::default();
        backend.head_candidates(&w, &copy, &buffer(backend, &x), &request, &mut out);
        assert!(out.rows[0].is_some());
        for id in [7, 2000, 4099] {
            assert!(out.entries.iter().any(|c| c.id == id), "{id}");
        }
    }
}

#[test]
fn hidden_states_that_are_no_numbers_are_left_to_the_full_head() {
    let mut random = Random::new(9);
    let (rows, cols) = (4096, 128);
    let w = f32_matrix(rows, cols, &random.floats(rows * cols));
    let backend = &backends(1)[0];
    let copy = backend.upload_head_copy(&w, 0).unwrap().unwrap();
    let mut x = random.floats(4 * cols);
    (x[3], x[cols], x[2 * cols + 127]) = (f32::NAN, f32::INFINITY, 1e30);
    let request = CandidateRequest {
        x_rows: &[0, 1, 2, 3],
        keeps: &[Keep::Best(1); 4],
        named_offsets: &[0; 5],
        named: &[],
    };
    let mut out = Candidates::default();
    backend.head_candidates(&w, &copy, &buffer(backend, &x), &request, &mut out);
    let found: Vec<bool> = out.rows.iter().map(Option::is_some).collect();
    assert_eq!(found, [false, false, false, true]);
    assert_eq!((out.work.searched, out.work.full), (4, 3));
}
