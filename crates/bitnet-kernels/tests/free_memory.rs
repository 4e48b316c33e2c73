//! What the allocator keeps goes back to the system when it is told to. A file, and so a process, of its own: others would
//! move the figures.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use bitnet_kernels::give_back_free_memory;

/// Pieces of a kilobyte.
const PIECES: usize = 64 << 10;

/// Anonymous memory of this process in bytes.
fn anonymous() -> usize {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Anonymous:"));
    let kilobytes = line.unwrap().trim().strip_suffix("kB").unwrap();
    kilobytes.trim().parse::<usize>().unwrap() << 10
}

#[test]
fn free_memory_behind_a_piece_that_stays_is_given_back() {
    // In a thread, whose memory does not lie at the end of the heap.
    let last = std::thread::spawn(|| {
        let mut pieces: Vec<Box<[u8; 1024]>> = (0..PIECES).map(|_| Box::new([1; 1024])).collect();
        pieces.pop().unwrap()
    });
    let last = last.join().unwrap();
    let kept = anonymous();
    assert!(kept > PIECES * 1024 / 2, "the allocator keeps it: {kept}");
    give_back_free_memory();
    let now = anonymous();
    assert!(now + PIECES * 1024 / 2 < kept, "{kept} -> {now}");
    assert_eq!(last[0], 1);
}
