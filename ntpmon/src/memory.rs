//! How soon memory that is not used any more is given back to the system. By default mimalloc keeps
//! it for ten seconds, in which the history takes and frees some hundred megabytes under load.

use std::ffi::c_long;

use libmimalloc_sys::{mi_option_get, mi_option_set, mi_option_t};

/// `mi_option_purge_delay` of mimalloc 3, in milliseconds; whole arenas wait ten times as long.
const PURGE_DELAY: mi_option_t = 15;
/// What it is by default.
const BY_DEFAULT: c_long = 1000;
/// Long enough that what is freed and taken again at once stays.
const SOON: c_long = 10;

/// From now on, soon. To be called where a program begins that has mimalloc as its allocator. Says
/// whether it was done: who set it otherwise, in the environment, is obeyed.
pub fn give_back_soon() -> bool {
    // SAFETY: reads a number, whatever that is the number of.
    let is_untouched = unsafe { mi_option_get(PURGE_DELAY) } == BY_DEFAULT;
    if is_untouched {
        // SAFETY: it is the option that is meant, since it has its unusual value.
        unsafe { mi_option_set(PURGE_DELAY, SOON) };
    }
    is_untouched
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_option_of_the_allocator_that_is_set_is_the_one_that_is_meant() {
        assert!(
            super::give_back_soon(),
            "mimalloc numbers its options otherwise"
        );
        assert!(!super::give_back_soon());
    }
}
