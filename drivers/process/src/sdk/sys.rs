//! The one place with unsafe code (with [`clone3`](super::clone3)): starting a child without copying the agent's memory, two
//! calls that have no safe interface, and the registration of a descriptor.
//!
//! `posix_spawn` cannot change the user, the umask, limits or the cgroup, and `fork` copies the page tables of the whole
//! agent (6 to 8 ms with a 256 MiB heap). So the child is made as `vfork` makes it: `clone(CLONE_VM | CLONE_VFORK)` on a
//! stack of its own; the calling thread sleeps until the child has called `execve` or ended.
//!
//! What makes this sound:
//! * the child runs [`child_main`] only, which allocates nothing, takes no lock, cannot unwind, and calls nothing but system
//!   calls on data that was prepared before ([`ChildSetup`] outlives the call because the caller sleeps);
//! * user and group are set by raw system calls, because the C library's wrappers would signal all threads of the agent;
//! * all signals are blocked around the call, so that no handler of the agent ever runs in the child; the child sets every
//!   disposition back to the default and unblocks right before `execve`;
//! * the child's descriptor table, signal table and working directory are its own (no `CLONE_FILES | CLONE_SIGHAND | CLONE_FS`).
#![expect(
    unsafe_code,
    reason = "vfork-like spawning, pidfd calls and AsyncFd::register have no safe interface; see the module's doc"
)]

use std::ffi::{CString, c_char, c_int, c_long, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::clone3::clone3;

/// Bytes of stack a child gets before `execve`.
pub(crate) const CHILD_STACK: usize = 64 * 1024;

/// What a child does before `execve`, with everything resolved and allocated beforehand.
#[derive(Debug, Default)]
pub(crate) struct ChildSetup {
    /// Paths tried in order, as `execvp` does.
    pub programs: Vec<CString>,
    pub argv: Vec<CString>,
    pub envp: Vec<CString>,
    /// stdin, stdout, stderr; each above 2.
    pub stdio: [RawFd; 3],
    /// The directory of the v2 cgroup that the child begins in, where the kernel can do that.
    pub cgroup: Option<RawFd>,
    /// Open `cgroup.procs` files the child writes itself into: first that of `cgroup`, where there is one, for kernels
    /// that cannot begin it there.
    pub cgroups: Vec<RawFd>,
    pub cwd: Option<CString>,
    pub umask: u32,
    /// Resource number, soft, hard.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// Value, and whether failing to set it is an error.
    pub nice: Option<(i32, bool)>,
    pub ioprio: Option<i32>,
    pub oom_score_adj: Option<(CString, bool)>,
    /// Supplementary groups are cleared and the ids set.
    pub ids: Option<(u32, u32)>,
    /// Stdin is a terminal that becomes the child's controlling one.
    pub terminal: bool,
}

/// Where a child stopped before `execve`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Step {
    Clone = 1,
    Session,
    Cgroup,
    Rlimit,
    Nice,
    IoPriority,
    OomScore,
    Stdio,
    Terminal,
    CloseFds,
    Ids,
    Cwd,
    Exec,
}

impl Step {
    const ALL: [Self; 13] = [
        Self::Clone,
        Self::Session,
        Self::Cgroup,
        Self::Rlimit,
        Self::Nice,
        Self::IoPriority,
        Self::OomScore,
        Self::Stdio,
        Self::Terminal,
        Self::CloseFds,
        Self::Ids,
        Self::Cwd,
        Self::Exec,
    ];

    fn from_raw(raw: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as i32 == raw)
    }
}

/// A failed start: the step, its index where there are several (which limit), and the system's error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChildFailure {
    pub step: Step,
    pub index: usize,
    pub errno: i32,
}

/// A child that has called `execve`.
#[derive(Debug)]
pub(crate) struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

struct Shared<'a> {
    setup: &'a ChildSetup,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    mask: libc::sigset_t,
    /// How many of the cgroups the child is in from the beginning.
    entered: AtomicUsize,
    step: AtomicI32,
    index: AtomicI32,
    errno: AtomicI32,
}

/// Starts a child and returns when it runs its program, or says at which step it failed.
///
/// Blocks the calling thread until `execve`; `stack` is reused between calls.
pub(crate) fn spawn(setup: &ChildSetup, stack: &mut [u8]) -> Result<Child, ChildFailure> {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    // SAFETY: a zeroed sigset_t is valid, and both calls write to it.
    let (mut all, mut empty): (libc::sigset_t, libc::sigset_t) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: both point to sets of this frame.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::sigemptyset(&raw mut empty);
    }
    let shared = Shared {
        argv: pointers(&setup.argv),
        envp: pointers(&setup.envp),
        setup,
        mask: empty,
        entered: AtomicUsize::new(0),
        step: AtomicI32::new(0),
        index: AtomicI32::new(0),
        errno: AtomicI32::new(0),
    };
    let clone_failure = |errno| ChildFailure {
        step: Step::Clone,
        index: 0,
        errno,
    };
    if stack.len() < CHILD_STACK {
        return Err(clone_failure(libc::EINVAL));
    }
    let mut before = empty;
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let top = stack.as_mut_ptr_range().end;
    let top = top.wrapping_sub(top.addr() % 16);
    // SAFETY: see the module's doc. `top` is the aligned end of a live buffer that nothing else uses, `shared` outlives the
    // child's use of it because CLONE_VFORK suspends this thread, and the mask is restored on the same thread.
    let (pid, errno) = unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let argument = (&raw const shared).cast_mut().cast::<c_void>();
        let mut pid = match setup.cgroup {
            Some(cgroup) => {
                shared.entered.store(1, Ordering::Release);
                clone3(stack, cgroup, child_main, argument, &mut pidfd) as c_int
            }
            None => -libc::ENOSYS,
        };
        let mut errno = 0;
        if pid < 0 {
            // Older kernels, other processors, a filter of system calls: the child enters by itself, and if that is what
            // fails, says so.
            shared.entered.store(0, Ordering::Release);
            pid = libc::clone(child_main, top.cast::<c_void>(), flags, argument, &raw mut pidfd);
            errno = *libc::__errno_location();
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        (pid, errno)
    };
    if pid < 0 {
        return Err(clone_failure(errno));
    }
    // SAFETY: on success CLONE_PIDFD stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    match Step::from_raw(shared.step.load(Ordering::Acquire)) {
        None => Ok(Child { pid, pidfd }),
        Some(step) => {
            let mut status = 0;
            // SAFETY: waits for our own child, which has ended or is about to.
            while unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0
                && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR)
            {}
            let index = usize::try_from(shared.index.load(Ordering::Acquire)).unwrap_or(0);
            Err(ChildFailure {
                step,
                index,
                errno: shared.errno.load(Ordering::Acquire),
            })
        }
    }
}

/// Runs in the child, in the agent's memory. System calls on prepared data only; see the module's doc.
extern "C" fn child_main(argument: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its `Shared` and sleeps until this function has ended or replaced the program.
    let shared = unsafe { &*argument.cast::<Shared<'_>>() };
    // SAFETY: as above.
    if let Err((step, index)) = unsafe { prepare_and_exec(shared) } {
        // SAFETY: errno is the calling thread's; the suspended parent does not look at it.
        shared
            .errno
            .store(unsafe { *libc::__errno_location() }, Ordering::Release);
        shared.index.store(index as i32, Ordering::Release);
        shared.step.store(step as i32, Ordering::Release);
    }
    // SAFETY: ends the child without running anything of the agent's exit path.
    unsafe { libc::_exit(127) }
}

fn check(result: c_long, step: Step, index: usize) -> Result<(), (Step, usize)> {
    if result < 0 { Err((step, index)) } else { Ok(()) }
}

/// # Safety
/// Only in the child of `spawn`.
unsafe fn prepare_and_exec(shared: &Shared<'_>) -> Result<(), (Step, usize)> {
    let setup = shared.setup;
    // SAFETY: plain system calls with pointers into `setup`, which is alive and not changed while the parent sleeps.
    unsafe {
        // The kernel's `struct sigaction`, all zero: SIG_DFL. Not through the C library, which refuses its own two signals;
        // they too may have been ignored when the agent was started.
        let default = [0_u64; 8];
        for signal in 1..=64 {
            // Refused for SIGKILL and SIGSTOP, which need no reset.
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<u64>(),
                8_usize,
            );
        }
        check(libc::setsid().into(), Step::Session, 0)?;
        let entered = shared.entered.load(Ordering::Acquire);
        for (i, fd) in setup.cgroups.iter().enumerate().skip(entered) {
            check(
                libc::write(*fd, c"0".as_ptr().cast(), 1) as c_long,
                Step::Cgroup,
                i,
            )?;
        }
        libc::umask(setup.umask);
        if let Some((value, required)) = &setup.oom_score_adj {
            let fd = libc::open(
                c"/proc/self/oom_score_adj".as_ptr(),
                libc::O_WRONLY | libc::O_CLOEXEC,
            );
            let written = libc::write(fd, value.as_ptr().cast(), value.as_bytes().len());
            if *required {
                check(written as c_long, Step::OomScore, 0)?;
            }
        }
        for (i, (resource, soft, hard)) in setup.rlimits.iter().enumerate() {
            let limit = libc::rlimit64 {
                rlim_cur: *soft,
                rlim_max: *hard,
            };
            let new = &raw const limit;
            let result = libc::syscall(
                libc::SYS_prlimit64,
                0,
                *resource,
                new,
                ptr::null::<libc::rlimit64>(),
            );
            check(result, Step::Rlimit, i)?;
        }
        if let Some((value, required)) = setup.nice {
            let result = libc::setpriority(libc::PRIO_PROCESS, 0, value);
            if required {
                check(result.into(), Step::Nice, 0)?;
            }
        }
        if let Some(value) = setup.ioprio {
            const IOPRIO_WHO_PROCESS: c_int = 1;
            check(
                libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value),
                Step::IoPriority,
                0,
            )?;
        }
        for (i, fd) in setup.stdio.iter().enumerate() {
            check(libc::dup2(*fd, i as c_int).into(), Step::Stdio, i)?;
        }
        if setup.terminal {
            // The child leads a session of its own, which has none yet.
            check(libc::ioctl(0, libc::TIOCSCTTY, 0).into(), Step::Terminal, 0)?;
        }
        // Everything else closes at execve, whoever opened it and however.
        let closed = libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        check(closed, Step::CloseFds, 0)?;
        if let Some((uid, gid)) = setup.ids {
            check(
                libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()),
                Step::Ids,
                0,
            )?;
            check(libc::syscall(libc::SYS_setresgid, gid, gid, gid), Step::Ids, 1)?;
            check(libc::syscall(libc::SYS_setresuid, uid, uid, uid), Step::Ids, 2)?;
        }
        if let Some(cwd) = &setup.cwd {
            check(libc::chdir(cwd.as_ptr()).into(), Step::Cwd, 0)?;
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const shared.mask, ptr::null_mut());
        let mut denied = false;
        for program in &setup.programs {
            libc::execve(program.as_ptr(), shared.argv.as_ptr(), shared.envp.as_ptr());
            match *libc::__errno_location() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => denied = true,
                _ => return Err((Step::Exec, 0)),
            }
        }
        if denied {
            *libc::__errno_location() = libc::EACCES;
        }
    }
    Err((Step::Exec, 0))
}

/// What the kernel tells about a process through its pidfd, as far as it is used here (`struct pidfd_info`, first version).
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// Asks the kernel for the wait status of an ended process that was not ours to wait for.
///
/// `Ok(None)` while the process has not been reaped by its parent. Fails on kernels before 6.15.
pub(crate) fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> std::io::Result<Option<i32>> {
    const PIDFD_GET_INFO: u32 = 0xC040_FF0B; // _IOWR(0xFF, 11, 64 bytes)
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    let mut info = PidfdInfo {
        mask: PIDFD_INFO_EXIT,
        ..PidfdInfo::default()
    };
    // SAFETY: the request's size field says 64 bytes, the size of `PidfdInfo`, which lives through the call.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok((info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code))
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// Signals the process group that the process leads or belongs to, whatever became of its pid since. Fails with `EINVAL` on
/// kernels before 6.9.
pub(crate) fn pidfd_signal_group(pidfd: BorrowedFd<'_>, signal: i32) -> std::io::Result<()> {
    const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;
    let no_info = ptr::null::<libc::siginfo_t>();
    // SAFETY: a system call on an open descriptor, without pointers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            no_info,
            PIDFD_SIGNAL_PROCESS_GROUP,
        )
    };
    if result < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Makes a descriptor awaitable for reading. Needs a running Tokio runtime with I/O enabled.
pub(crate) fn async_readable(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    async_fd(fd, Interest::READABLE)
}

/// Makes a descriptor awaitable. Needs a running Tokio runtime with I/O enabled.
pub(crate) fn async_fd(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and the same for as long as it lives, and it moves into the `AsyncFd`.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}

/// An inherited or already open descriptor moved above 2, so that it can be handed to a child as one of 0, 1 and 2.
pub(crate) fn above_stdio(fd: OwnedFd) -> std::io::Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(&fd, 3)?)
}
