//! `clone3` with a stack of the child's own and a cgroup it begins in; the C library has no wrapper.
//!
//! Entering a cgroup by writing to `cgroup.procs` waits for all processors to pass a quiet point: 5 to 10 ms for a process
//! alone. A child that begins there (`CLONE_INTO_CGROUP`, Linux 5.7) costs nothing of the kind.
#![expect(
    unsafe_code,
    reason = "a system call whose child returns on another stack can only be written in assembly"
)]

use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;

/// From `linux/sched.h`; the constant of the libc crate has too narrow a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What [`clone3`] starts: called once, on the child's stack. Must not return.
pub(super) type Entry = extern "C" fn(*mut c_void) -> c_int;

/// Starts a child as `vfork` does, in the cgroup whose directory `cgroup` is. Returns its pid and stores its pidfd, or
/// returns the negative error number; `ENOSYS` also where this processor is not supported.
///
/// # Safety
/// As for `clone(CLONE_VM | CLONE_VFORK)`: `stack` is used by nothing else, `entry` never returns and may use what
/// `argument` points to, which lives until then.
pub(super) unsafe fn clone3(
    stack: &mut [u8],
    cgroup: RawFd,
    entry: Entry,
    argument: *mut c_void,
    pidfd: &mut c_int,
) -> isize {
    let base = stack.as_mut_ptr().addr();
    // SAFETY: a structure of numbers, for which zero is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64 | CLONE_INTO_CGROUP;
    args.pidfd = std::ptr::from_mut(pidfd).addr() as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    args.stack = base.next_multiple_of(16) as u64;
    args.stack_size = ((base + stack.len()) / 16 * 16) as u64 - args.stack;
    args.cgroup = cgroup as u64;
    // SAFETY: the caller's promise.
    unsafe { start(&mut args, entry, argument) }
}

#[cfg(target_arch = "x86_64")]
unsafe fn start(args: &mut libc::clone_args, entry: Entry, argument: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: the parent goes on behind the label with nothing changed but what is declared; the child never gets there.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") entry,
            in("r13") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn start(args: &mut libc::clone_args, entry: Entry, argument: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: the parent goes on behind the label with nothing changed but what is declared; the child never gets there.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x22",
            "blr x21",
            "brk #1",
            "2:",
            inlateout("x0") std::ptr::from_mut(args) as isize => result,
            in("x1") size_of::<libc::clone_args>(),
            in("x8") libc::SYS_clone3,
            in("x21") entry,
            in("x22") argument,
        );
    }
    result
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn start(_: &mut libc::clone_args, _: Entry, _: *mut c_void) -> isize {
    -(libc::ENOSYS as isize)
}
