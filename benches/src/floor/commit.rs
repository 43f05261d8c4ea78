//! What it costs to have something on disk: a write into a preallocated file and `fdatasync`.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::Result;

const BLOCK: usize = 4096;
const FILE: u64 = 16 << 20;

/// A function that commits one record; its file is removed with the directory.
pub fn commits(dir: &Path) -> Result<impl FnMut() + Send + 'static> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(dir.join("commit"))?;
    let zeros = vec![0; 1 << 20];
    for offset in (0..FILE).step_by(zeros.len()) {
        file.write_all_at(&zeros, offset)?;
    }
    file.sync_all()?;
    let mut offset = 0;
    Ok(move || {
        file.write_all_at(&[7; BLOCK], offset)
            .expect("the floor's file can be written");
        rustix::fs::fdatasync(&file).expect("the floor's file can be synced");
        offset = (offset + BLOCK as u64) % FILE;
    })
}
