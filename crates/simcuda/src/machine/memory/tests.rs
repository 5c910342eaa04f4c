use super::*;

fn device() -> Memory {
    Memory::new(1 << 20).expect("a MiB can be reserved")
}

#[test]
fn bit_ranges_match_a_plain_loop_at_every_place() {
    let map = super::bitmap::Bitmap::new(512).expect("address space");
    // A word that is set in part becomes whole.
    map.set(100, 1);
    map.set(3, 500);
    // Holes: a single bit, one that spans words, the first and the last bit of a word.
    map.clear(130, 1);
    map.clear(250, 20);
    map.clear(320, 1);
    map.clear(447, 1);
    let is_set = |bit: usize| (3..503).contains(&bit) && ![130, 320, 447].contains(&bit) && !(250..270).contains(&bit);
    for first in 0..300 {
        for count in 1..200 {
            assert_eq!(map.all(first, count), (first..first + count).all(is_set), "{count} bits from {first}");
        }
    }
    for count in [1usize, 2, 4, 8, 16] {
        for first in (0..400).step_by(count) {
            let places = [4 * count, first].map(|place| place.next_multiple_of(count));
            let expected = places.iter().all(|&place| (place..place + count).all(is_set));
            assert_eq!(map.all_aligned(count, places.into_iter()), expected, "{count} bits from {first}");
        }
    }
}

#[test]
fn read_matches_write_inside_an_allocation() {
    let memory = device();
    let p = memory.alloc(100).expect("fits");
    assert_eq!(p % 256, 0);
    memory.write(p + 3, &[1, 2, 3]).expect("inside");
    let mut back = [0; 3];
    memory.read(&mut back, p + 3).expect("inside");
    assert_eq!(back, [1, 2, 3]);
    assert_eq!(memory.allocation_of(p + 99), Some((p, 100)));
    assert_eq!(memory.allocation_of(p + 100), None);
}

#[test]
fn host_access_is_refused_outside_an_allocation() {
    let memory = device();
    let p = memory.alloc(100).expect("fits");
    assert!(matches!(memory.write(p + 98, &[0; 3]), Err(MemoryError::OutOfBounds { bytes: 3, .. })));
    assert_eq!(memory.read(&mut [0; 1], p + 100), Err(MemoryError::InvalidPointer { ptr: p + 100 }));
    assert_eq!(memory.free(p + 1), Err(MemoryError::InvalidPointer { ptr: p + 1 }));
    assert_eq!(memory.free(p), Ok(()));
    assert_eq!(memory.free(p), Err(MemoryError::InvalidPointer { ptr: p }));
    assert_eq!(memory.free(3), Err(MemoryError::InvalidPointer { ptr: 3 }));
    assert_eq!(memory.fill(p, &[1, 2, 3], 1), Err(MemoryError::Misaligned { ptr: p, align_bytes: 3 }));
}

#[test]
fn capacity_matches_what_can_be_allocated() {
    let memory = device();
    assert_eq!(memory.info(), (1 << 20, 1 << 20));
    let all: Vec<u64> = std::iter::from_fn(|| memory.alloc(1 << 16)).collect();
    assert_eq!(all.len(), 16);
    assert_eq!(memory.info().0, 0);
    all.iter().for_each(|&p| memory.free(p).expect("live"));
    assert!(memory.alloc(1 << 20).is_some(), "freed ranges merge again");
    assert_eq!(memory.alloc(0), None);
    assert_eq!(memory.alloc(usize::MAX), None);
}

#[test]
fn diagnose_names_each_reason() {
    let memory = device();
    let (a, b) = (memory.alloc(64).expect("fits"), memory.alloc(64).expect("fits"));
    memory.fill(a, &[7, 0, 0, 0], 15).expect("inside");
    let (kind, at, near) = memory.diagnose(a + 56, 8);
    assert_eq!((kind, at, near.map(|n| n.base)), (FaultKind::Uninitialized, a + 60, Some(a)));
    let (kind, at, near) = memory.diagnose(a + 60, 8);
    assert_eq!((kind, at, near.map(|n| n.base)), (FaultKind::OutOfBounds, a + 64, Some(a)));
    memory.free(b).expect("live");
    let (kind, at, near) = memory.diagnose(b + 8, 4);
    assert_eq!((kind, at, near.map(|n| (n.base, n.freed))), (FaultKind::UseAfterFree, b + 8, Some((b, true))));
}

#[test]
fn copy_moves_initialisation_at_every_shift() {
    for (shift, len) in [(0, 64), (1, 63), (3, 130), (65, 200), (9, 1)] {
        let memory = device();
        let (a, b) = (memory.alloc(512).expect("fits"), memory.alloc(512).expect("fits"));
        memory.write(a + 10, &[1; 7]).and(memory.write(a + 80, &[1; 90])).expect("inside");
        memory.copy(b + shift, a + 5, len).expect("inside");
        for i in 0..len {
            let at = |p: u64| memory.is_initialized((p - memory.base()) as usize + i, 1);
            assert_eq!(at(b + shift), at(a + 5), "byte {i} of shift {shift}");
        }
    }
}
