//! Zeroed, aligned memory for weights, activations and the KV cache, in huge pages where the system has them.
//!
//! Streaming half a gigabyte of weights per token through 4 KiB pages costs a page walk every 64 cache lines; with
//! 2 MiB pages the walks vanish. Large areas come straight from `mmap`: the kernel hands out zeroed pages when they are
//! first touched, so a KV cache costs memory only as it fills.

use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::error::KernelError;

/// Cache line of every CPU that we run on, and the width of the widest vector.
const ALIGNMENT: usize = 64;

/// From this size on an area is mapped and asks for huge pages; 2 MiB is the page size of x86-64 and the usual one of
/// AArch64, and smaller areas would waste most of one.
#[cfg(unix)]
const HUGE_PAGE: usize = 2 << 20;

/// Types for which all-zero bytes are a value and every bit pattern is valid.
///
/// # Safety
/// Implementors have no padding, no invalid bit patterns and an alignment of at most 64.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: a plain integer.
unsafe impl Plain for u8 {}
// SAFETY: a plain integer.
unsafe impl Plain for i8 {}
// SAFETY: a plain integer.
unsafe impl Plain for u16 {}
// SAFETY: a plain integer.
unsafe impl Plain for i32 {}
// SAFETY: a plain integer.
unsafe impl Plain for u32 {}
// SAFETY: a plain integer.
unsafe impl Plain for u64 {}
// SAFETY: every bit pattern is a float.
unsafe impl Plain for f32 {}
// SAFETY: an array of a plain type has no padding.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// A fixed-length array of `T`, zeroed, aligned to 64 bytes (2 MiB if large).
///
/// It is the only owner of its elements, whoever owns the pages they lie in.
pub struct Memory<T: Plain> {
    start: NonNull<T>,
    len: usize,
    owner: Owner,
}

/// Who gave the memory and takes it back.
enum Owner {
    /// Nobody: no bytes.
    Nothing,
    /// The global allocator.
    Allocator(std::alloc::Layout),
    /// An arena: the area it was cut from, which lives as long as its last piece.
    Arena { _area: Arc<Memory<u8>> },
    /// `mmap`, with the whole mapping.
    #[cfg(unix)]
    Mapping {
        base: NonNull<libc::c_void>,
        bytes: usize,
    },
}

// SAFETY: the memory is owned by this value alone, and T is Send.
unsafe impl<T: Plain> Send for Memory<T> {}
// SAFETY: shared access gives shared references only, and T is Sync.
unsafe impl<T: Plain> Sync for Memory<T> {}

impl<T: Plain> Memory<T> {
    /// `len` zeros; `what` names their use in the error.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn zeroed(what: &'static str, len: usize) -> Result<Memory<T>, KernelError> {
        let bytes = len
            .checked_mul(size_of::<T>())
            .filter(|&bytes| bytes <= isize::MAX as usize);
        let Some(bytes) = bytes else {
            return Err(KernelError::TooLarge {
                what,
                dims: vec![len],
            });
        };
        if bytes == 0 {
            return Ok(Memory {
                start: NonNull::dangling(),
                len,
                owner: Owner::Nothing,
            });
        }
        let out_of_memory = || KernelError::OutOfMemory { what, bytes };
        #[cfg(unix)]
        if bytes >= HUGE_PAGE {
            let (start, owner) = map(bytes).ok_or_else(out_of_memory)?;
            return Ok(Memory {
                start: start.cast(),
                len,
                owner,
            });
        }
        let layout =
            std::alloc::Layout::from_size_align(bytes, ALIGNMENT).map_err(|_| out_of_memory())?;
        // SAFETY: the layout's size is not zero.
        let start =
            NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).ok_or_else(out_of_memory)?;
        Ok(Memory {
            start: start.cast(),
            len,
            owner: Owner::Allocator(layout),
        })
    }

    /// Makes the array at least `len` long; the content is lost (zeroed) when it grows.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn reserve(&mut self, what: &'static str, len: usize) -> Result<(), KernelError> {
        if self.len < len {
            *self = Memory::zeroed(what, len)?;
        }
        Ok(())
    }
}

/// The largest page of the systems this runs on: parts are cut to whole ones.
#[cfg(target_os = "linux")]
const LARGEST_PAGE: usize = 64 << 10;

impl<T: Plain> Memory<T> {
    /// Gives the whole pages of a part back to the system, where it takes them; they cost nothing until they are touched
    /// again. What was in the part is lost: each of its bytes is what it was or 0.
    ///
    /// # Panics
    /// If the part is not inside.
    pub fn forget(&mut self, part: Range<usize>) {
        let part = &mut self[part];
        #[cfg(target_os = "linux")]
        {
            let (start, len) = (part.as_mut_ptr().cast::<u8>(), size_of_val(part));
            let skip = start.addr().next_multiple_of(LARGEST_PAGE) - start.addr();
            let end = (start.addr() + len) & !(LARGEST_PAGE - 1);
            let whole = end.saturating_sub(start.addr() + skip);
            if whole > 0 && matches!(self.owner, Owner::Mapping { .. }) {
                // SAFETY: the range lies inside the part, which is borrowed mutably and lies in a private anonymous mapping
                // of ours; its pages are zeros from now on, and T is Plain. A refusal only costs memory.
                unsafe {
                    libc::madvise(start.add(skip).cast(), whole, libc::MADV_DONTNEED);
                }
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = part;
    }
}

/// Gives the system back what the allocator keeps for later: after something large has gone, such as a model's vocabulary of
/// a hundred thousand small pieces, whose pages glibc holds for good where a single later piece lies behind them. It takes
/// some milliseconds for a hundred megabytes. Nothing happens with allocators of other systems, which do so by themselves.
pub fn give_back_free_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim may be called at any time by any thread; it touches free memory alone.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Maps zeroed pages whose first byte lies on a huge-page border.
#[cfg(unix)]
fn map(bytes: usize) -> Option<(NonNull<u8>, Owner)> {
    let mapped = bytes.checked_add(HUGE_PAGE)?;
    // SAFETY: a new private anonymous mapping touches no memory that exists.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            mapped,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return None;
    }
    let base = NonNull::new(base)?;
    let skip = base.as_ptr().addr().next_multiple_of(HUGE_PAGE) - base.as_ptr().addr();
    // SAFETY: skip < HUGE_PAGE, and the mapping is HUGE_PAGE longer than the area.
    let start = unsafe { base.cast::<u8>().add(skip) };
    #[cfg(target_os = "linux")]
    // SAFETY: the range lies inside the mapping; the advice changes no content. A refusal only costs speed.
    unsafe {
        libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
    }
    Some((
        start,
        Owner::Mapping {
            base,
            bytes: mapped,
        },
    ))
}

impl<T: Plain> Drop for Memory<T> {
    fn drop(&mut self) {
        match &self.owner {
            Owner::Nothing | Owner::Arena { .. } => {}
            // SAFETY: allocated in `zeroed` with this layout, freed once.
            Owner::Allocator(layout) => unsafe {
                std::alloc::dealloc(self.start.as_ptr().cast(), *layout)
            },
            #[cfg(unix)]
            // SAFETY: mapped in `map` with this length, unmapped once; no reference outlives `self`.
            Owner::Mapping { base, bytes } => unsafe {
                libc::munmap(base.as_ptr(), *bytes);
            },
        }
    }
}

impl<T: Plain> Deref for Memory<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `start` points to `len` values, zeroed at first and only ever written as T; T: Plain.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> std::fmt::Debug for Memory<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} x {} bytes)", self.len, size_of::<T>())
    }
}

/// Pieces of zeroed memory cut from large areas, so that a weight of half a megabyte lies in huge pages too.
#[derive(Debug, Default)]
pub struct Arena {
    area: Option<Arc<Memory<u8>>>,
    used: usize, // bytes of `area` that are given away
}

/// Bytes of an arena's area. Pages that no piece touches cost nothing.
const ARENA_AREA: usize = 64 << 20;

impl Arena {
    /// `len` zeros, as [`Memory::zeroed`] gives them.
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn zeroed<T: Plain>(
        &mut self,
        what: &'static str,
        len: usize,
    ) -> Result<Memory<T>, KernelError> {
        let bytes = len.checked_mul(size_of::<T>());
        let Some(bytes) = bytes.filter(|&bytes| 0 < bytes && bytes <= ARENA_AREA / 2) else {
            return Memory::zeroed(what, len);
        };
        // Nobody has a piece of the area any more: it is used again.
        if let Some(area) = self.area.as_mut().and_then(Arc::get_mut) {
            area[..std::mem::take(&mut self.used)].fill(0);
        }
        let area = match &self.area {
            Some(area) if bytes <= ARENA_AREA - self.used => area,
            _ => {
                self.used = 0;
                self.area
                    .insert(Arc::new(Memory::zeroed(what, ARENA_AREA)?))
            }
        };
        // SAFETY: used + bytes <= ARENA_AREA, the area's length.
        let start = unsafe { area.start.add(self.used) }.cast();
        // The next piece starts on a cache line of its own; T's alignment divides that of the area and of each piece.
        self.used = (self.used + bytes)
            .next_multiple_of(ALIGNMENT)
            .min(ARENA_AREA);
        Ok(Memory {
            start,
            len,
            owner: Owner::Arena {
                _area: Arc::clone(area),
            },
        })
    }
}

/// A slice that several threads write to, each its own ranges.
pub struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    borrow: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: a Disjoint is a `&mut [T]` cut into ranges by its users, who promise that no two overlap.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the slice for as long as threads write to it.
    pub fn new(slice: &'a mut [T]) -> Self {
        Disjoint {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            borrow: std::marker::PhantomData,
        }
    }

    /// `len` elements from `offset` on.
    ///
    /// # Safety
    /// No two ranges that are alive at the same time overlap, on any thread.
    ///
    /// # Panics
    /// If the range is not inside the slice.
    #[inline(always)]
    #[expect(
        clippy::mut_from_ref,
        reason = "the contract makes the ranges disjoint"
    )]
    pub unsafe fn range(&self, offset: usize, len: usize) -> &mut [T] {
        assert!(
            offset <= self.len && len <= self.len - offset,
            "range outside of the output"
        );
        // SAFETY: inside the slice that `new` took; unique by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zeroed_aligned_and_writable_at_all_sizes() {
        for len in [
            0,
            1,
            15,
            16,
            17,
            4096,
            (2 << 20) / 4 - 1,
            (2 << 20) / 4,
            3 << 20,
        ] {
            let mut memory = Memory::<f32>::zeroed("test", len).unwrap();
            assert_eq!(memory.len(), len);
            assert!(memory.iter().all(|&v| v == 0.0));
            assert!(len == 0 || memory.as_ptr().addr().is_multiple_of(ALIGNMENT));
            memory.fill(1.5);
            assert!(memory.iter().all(|&v| v == 1.5));
        }
    }

    #[test]
    fn pieces_of_an_arena_are_zeroed_apart_and_outlive_it() {
        let mut arena = Arena::default();
        let lens = [1, 1000, 0, 3 << 20, 12 << 20, 7, 6 << 20, 20 << 20];
        let mut pieces = lens.map(|len| arena.zeroed::<f32>("test", len).unwrap());
        drop(arena);
        for (i, piece) in pieces.iter_mut().enumerate() {
            assert!(piece.iter().all(|&v| v == 0.0), "piece {i}");
            assert!(piece.is_empty() || piece.as_ptr().addr().is_multiple_of(ALIGNMENT));
            piece.fill(i as f32 + 1.0);
        }
        for (i, (piece, len)) in pieces.iter().zip(lens).enumerate() {
            assert!(
                piece.len() == len && piece.iter().all(|&v| v == i as f32 + 1.0),
                "piece {i}"
            );
        }
    }

    #[test]
    fn an_arena_whose_pieces_are_gone_starts_again_with_zeros() {
        let mut arena = Arena::default();
        let first = arena.zeroed::<u8>("test", 5 << 20).unwrap();
        let start = first.as_ptr().addr();
        let mut second = arena.zeroed::<u8>("test", 1 << 20).unwrap();
        drop(first);
        let third = arena.zeroed::<u8>("test", 1 << 20).unwrap();
        assert!(third.as_ptr().addr() > second.as_ptr().addr());
        second.fill(7);
        drop((second, third));
        let again = arena.zeroed::<u8>("test", 20 << 20).unwrap();
        assert_eq!(again.as_ptr().addr(), start);
        assert!(again.iter().all(|&v| v == 0));
    }

    #[test]
    fn what_is_forgotten_is_old_or_zero_and_nothing_else_changes() {
        for len in [1, 4096, 3 << 20] {
            let mut memory = Memory::<[u8; 2]>::zeroed("test", len).unwrap();
            memory.fill([3, 4]);
            let part = len / 3..len - len / 5;
            memory.forget(part.clone());
            memory.forget(part.start..part.start);
            for (i, v) in memory.iter().enumerate() {
                assert!(
                    *v == [3, 4] || part.contains(&i) && v.iter().all(|b| [0, 3, 4].contains(b)),
                    "{i}"
                );
            }
        }
    }

    #[test]
    fn impossible_sizes_are_errors() {
        assert!(matches!(
            Memory::<f32>::zeroed("test", usize::MAX / 2),
            Err(KernelError::TooLarge { .. })
        ));
        assert!(matches!(
            Memory::<u8>::zeroed("test", isize::MAX as usize),
            Err(KernelError::OutOfMemory { .. })
        ));
    }

    #[test]
    fn reserve_keeps_what_is_long_enough() {
        let mut memory = Memory::<u8>::zeroed("test", 8).unwrap();
        memory[3] = 7;
        memory.reserve("test", 5).unwrap();
        assert_eq!((memory.len(), memory[3]), (8, 7));
        memory.reserve("test", 9).unwrap();
        assert_eq!((memory.len(), memory[3]), (9, 0));
    }
}
