use super::*;

#[test]
fn positions_round_up_to_whole_blocks() {
    for (positions, blocks) in [(0, 0), (1, 1), (15, 1), (16, 1), (17, 2), (32, 2), (33, 3)] {
        assert_eq!(BlockManager::blocks_for(positions), blocks, "{positions}");
    }
}

#[test]
fn tables_never_share_a_block_and_all_come_back() {
    let mut blocks = BlockManager::new(5, false);
    let mut a = blocks.allocate(2 * KV_BLOCK).expect("two of five");
    let mut b = blocks.allocate(2 * KV_BLOCK + 1).expect("three of three");
    assert_eq!(blocks.n_free(), 0);
    let mut all = [a.clone(), b.clone()].concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3, 4]);
    assert_eq!(blocks.allocate(1), None);
    blocks.release(&mut a);
    assert_eq!(blocks.allocate(3 * KV_BLOCK), None);
    blocks.release(&mut b);
    assert_eq!(blocks.n_free(), 5);
    assert!(a.is_empty() && b.is_empty());
}

#[test]
fn a_refused_allocation_takes_nothing() {
    let mut blocks = BlockManager::new(2, false);
    assert_eq!(blocks.allocate(3 * KV_BLOCK), None);
    assert_eq!(blocks.n_free(), 2);
    assert_eq!(blocks.allocate(0), Some(vec![]));
    let mut table = blocks.allocate(1).expect("one of two");
    assert!(!blocks.grow(&mut table, 3 * KV_BLOCK));
    assert_eq!((table.len(), blocks.n_free()), (1, 1));
    assert!(blocks.grow(&mut table, KV_BLOCK), "it has room already");
    assert!(blocks.grow(&mut table, KV_BLOCK + 1));
    assert_eq!((table.len(), blocks.n_free()), (2, 0));
}

#[test]
#[should_panic(expected = "a block was returned twice")]
fn a_table_that_comes_back_twice_is_noticed() {
    let mut blocks = BlockManager::new(2, true);
    let mut table = blocks.allocate(1).expect("one of two");
    let mut copy = table.clone();
    blocks.release(&mut table);
    blocks.release(&mut copy);
}

const A: [u32; KV_BLOCK] = [1; KV_BLOCK];
const B: [u32; KV_BLOCK] = [2; KV_BLOCK];
const START: Prefix = Prefix::Start(0);

#[test]
fn kept_blocks_are_shared_and_outlive_their_holders() {
    let mut blocks = BlockManager::new(3, true);
    let mut first = blocks.allocate(2 * KV_BLOCK).expect("two of three");
    let a = blocks.keep(START, &A, &mut first[0]);
    let (shared, prefix) = blocks.find(START, &A).expect("it was kept");
    assert_eq!((shared, prefix), (first[0], a));
    assert_eq!(blocks.n_held_alone(&first), 1);
    blocks.release(&mut first);
    assert_eq!((blocks.n_free(), blocks.n_idle()), (2, 0));
    blocks.let_go(shared);
    assert_eq!((blocks.n_free(), blocks.n_idle()), (3, 1));
    let (again, _) = blocks.find(START, &A).expect("nobody needed its memory");
    assert_eq!(again, shared);
    assert_eq!((blocks.n_free(), blocks.n_idle()), (2, 0));
}

#[test]
fn what_was_computed_twice_is_kept_once() {
    let mut blocks = BlockManager::new(4, true);
    let mut first = blocks.allocate(KV_BLOCK).expect("free");
    let mut second = blocks.allocate(KV_BLOCK).expect("free");
    let a = blocks.keep(START, &A, &mut first[0]);
    assert_eq!(blocks.keep(START, &A, &mut second[0]), a);
    assert_eq!(first, second);
    assert_eq!(blocks.n_free(), 3);
    blocks.release(&mut first);
    blocks.release(&mut second);
    assert_eq!((blocks.n_free(), blocks.n_idle()), (4, 1));
}

#[test]
fn memory_that_is_wanted_forgets_ends_of_texts_before_their_beginnings() {
    let mut blocks = BlockManager::new(3, true);
    let mut table = blocks.allocate(2 * KV_BLOCK).expect("two of three");
    let a = blocks.keep(START, &A, &mut table[0]);
    blocks.keep(a, &B, &mut table[1]);
    blocks.release(&mut table);
    let mut wanted = blocks.allocate(2 * KV_BLOCK).expect("all are free");
    let (beginning, _) = blocks.find(START, &A).expect("the beginning is left");
    assert_eq!(blocks.find(a, &B), None);
    assert_eq!(blocks.n_free(), 0);
    blocks.let_go(beginning);
    blocks.release(&mut wanted);
    assert_eq!(blocks.n_free(), 3);
}
