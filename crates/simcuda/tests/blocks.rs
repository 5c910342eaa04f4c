//! The order of blocks that tell each other by atomics.

mod device;
use device::{Device, ptx, shape};

const BLOCKS: u32 = 5;

/// The second warp of each block writes a 7, the first tells so by an atomic, after a barrier if there is one; the block that comes last, or
/// where all wait each, adds what the blocks have written. Parameters: \[arrived, sums, written\].
fn kernel(barrier: &str, wait: &str) -> String {
    ptx(&format!(
        ".visible .entry k(.param .u64 p) {{
            .reg .b64 %p, %a, %b; .reg .b32 %t, %c, %n, %x, %y, %s, %i; .reg .pred %q;
            .shared .align 4 .b32 told;
            ld.param.u64 %p, [p]; mov.u32 %t, %tid.x; mov.u32 %c, %ctaid.x; mov.u32 %n, %nctaid.x;
            mul.wide.u32 %b, %c, 4; add.u64 %b, %b, %p; mov.u32 %x, 7;
            setp.eq.u32 %q, %t, 32;
            @%q st.global.u32 [%b+64], %x;
            {barrier}
            setp.ne.u32 %q, %t, 0;
            @%q bra MEET;
            membar.gl;
            atom.global.add.u32 %y, [%p], 1; add.u32 %y, %y, 1;
            {wait}
            st.shared.u32 [told], %y;
            MEET: bar.sync 0;
            ld.shared.u32 %y, [told];
            setp.ne.u32 %q, %y, %n; @%q bra END;
            setp.ne.u32 %q, %t, 0; @%q bra END;
            mov.u32 %s, 0; mov.u32 %i, 0; mov.u64 %a, %p;
            ADD: ld.global.u32 %x, [%a+64]; add.u32 %s, %s, %x; add.u64 %a, %a, 4; add.u32 %i, %i, 1;
            setp.ne.u32 %q, %i, %n; @%q bra ADD;
            st.global.u32 [%b+32], %s;
            END: ret; }}"
    ))
}

const WAIT: &str = "POLL: nanosleep.u32 20; ld.acquire.gpu.global.u32 %y, [%p]; setp.ne.u32 %q, %y, %n; @%q bra POLL;";

/// The sums of the blocks, 0 of those that have none.
fn sums(youngest_first: bool, barrier: &str, wait: &str) -> Vec<u32> {
    let mut device = Device::new();
    (device.options.youngest_first, device.options.workers) = (youngest_first, 1);
    let f = device.kernel(&kernel(barrier, wait));
    let p = device.words(&[0; 64]);
    device.run(&f, &shape(BLOCKS, 64), &[p]).expect("no fault");
    device.read_words(p, 64)[8..8 + BLOCKS as usize].to_vec()
}

#[test]
fn block_that_tells_before_its_warps_have_written_is_found_where_the_youngest_goes_first() {
    let whole = 7 * BLOCKS;
    for youngest_first in [false, true] {
        assert_eq!(sums(youngest_first, "bar.sync 0;", "").iter().max(), Some(&whole));
        assert_eq!(sums(youngest_first, "bar.sync 0;", WAIT), [whole; BLOCKS as usize]);
    }
    // what the checker does not see: the last block reads its own 7 alone
    assert_eq!(sums(true, "", "").iter().max(), Some(&7));
    assert!(sums(true, "", WAIT).iter().any(|&sum| sum < whole));
    assert_eq!(sums(false, "", "").iter().max(), Some(&whole), "in the other order it is there by luck");
}

/// A lock that is asked for without rest: the block that has it goes on though it is not the youngest.
#[test]
fn lock_without_rest_ends_where_the_youngest_goes_first() {
    let body = ptx(".visible .entry k(.param .u64 p) {
            .reg .b64 %p; .reg .b32 %x, %y; .reg .pred %q;
            ld.param.u64 %p, [p];
            ASK: atom.global.cas.b32 %y, [%p], 0, 1; setp.ne.u32 %q, %y, 0; @%q bra ASK;
            ld.volatile.global.u32 %x, [%p+4]; add.u32 %x, %x, 1; st.volatile.global.u32 [%p+4], %x;
            membar.gl; atom.global.exch.b32 %y, [%p], 0;
            ret; }");
    let mut device = Device::new();
    device.options.youngest_first = true;
    let f = device.kernel(&body);
    let p = device.words(&[0; 2]);
    device.run(&f, &shape(BLOCKS, 1), &[p]).expect("no fault");
    assert_eq!(device.read_words(p, 2), [0, BLOCKS]);
}
