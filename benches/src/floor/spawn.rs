//! Spawning, noticing an end, killing: with `posix_spawn` and pidfds, nothing else.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

/// Spawns kids.
pub struct Kids {
    program: CString,
    births: CString,
}

/// One kid.
pub struct Spawned {
    pidfd: OwnedFd,
}

impl Kids {
    /// Kids of this program that tell their births there.
    pub fn new(program: &Path, births: &str) -> Result<Self> {
        Ok(Self {
            program: CString::new(program.to_str().context("a UTF-8 path")?)?,
            births: CString::new(births)?,
        })
    }

    /// One more.
    #[expect(
        unsafe_code,
        reason = "the floor of spawning is the C library's posix_spawn itself"
    )]
    pub fn spawn(&self, name: &str) -> Result<Spawned> {
        let name = CString::new(name)?;
        let argv = [
            self.program.as_ptr(),
            self.births.as_ptr(),
            name.as_ptr(),
            std::ptr::null(),
        ];
        let envp: [*const libc::c_char; 1] = [std::ptr::null()];
        let mut pid = 0;
        // SAFETY: all pointers are to NUL-terminated strings or null-terminated arrays of them that live until the
        // call returns; no attributes or file actions are passed.
        let failed = unsafe {
            libc::posix_spawn(
                &mut pid,
                self.program.as_ptr(),
                std::ptr::null(),
                std::ptr::null(),
                argv.as_ptr().cast(),
                envp.as_ptr().cast(),
            )
        };
        if failed != 0 {
            bail!("posix_spawn: {}", std::io::Error::from_raw_os_error(failed));
        }
        let pid = Pid::from_raw(pid).context("posix_spawn gave no pid")?;
        Ok(Spawned {
            pidfd: pidfd_open(pid, PidfdFlags::empty())?,
        })
    }
}

impl Spawned {
    /// Kills it.
    pub fn kill(&self) -> Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, Signal::KILL)?)
    }

    /// Waits until it has ended, and reaps it.
    pub fn wait(&self) -> Result<()> {
        use std::os::fd::AsFd;
        poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], None)?;
        waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)?;
        Ok(())
    }
}
