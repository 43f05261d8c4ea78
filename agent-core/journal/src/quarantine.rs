//! The place for what is damaged: kept for people to look at, bounded in size.

use std::io;

use crate::segment::{Maker, QUARANTINE, remove_quietly};
use crate::vfs::{OpenMode, write_all};

pub(crate) struct Quarantine<'a> {
    maker: &'a Maker,
    limit: u64,
    next: u64,
}

impl<'a> Quarantine<'a> {
    pub(crate) fn new(maker: &'a Maker, limit: u64) -> Self {
        let mut quarantine = Self {
            maker,
            limit,
            next: 1,
        };
        let last = quarantine
            .files()
            .iter()
            .filter_map(|(name, _)| sequence(name))
            .max();
        quarantine.next = last.unwrap_or(0).saturating_add(1);
        quarantine
    }

    fn files(&self) -> Vec<(String, u64)> {
        let dir = self.maker.path(QUARANTINE);
        let entries = self.maker.vfs.list(&dir).unwrap_or_default();
        entries.into_iter().map(|entry| (entry.name, entry.len)).collect()
    }

    /// Copies bytes; the name of the copy, which is on disk when this returns.
    pub(crate) fn copy(&mut self, what: &str, bytes: &[u8]) -> Option<String> {
        let name = self.name(what);
        let path = self.maker.path(QUARANTINE).join(&name);
        let made = self.prepare(bytes.len() as u64).and_then(|()| {
            let file = self.maker.vfs.open(&path, OpenMode::CreateNew)?;
            write_all(&*file, bytes, 0)?;
            file.sync_data()?;
            self.maker.vfs.sync_dir(&self.maker.path(QUARANTINE))
        });
        match made {
            Ok(()) => Some(name),
            Err(error) => {
                tracing::warn!(copy = %path.display(), %error, "cannot copy damaged bytes to the quarantine");
                remove_quietly(&*self.maker.vfs, &path);
                None
            }
        }
    }

    /// Moves a whole file there.
    pub(crate) fn take(&mut self, file: &str, len: u64) -> Option<String> {
        let name = self.name(file);
        let path = self.maker.path(QUARANTINE).join(&name);
        let moved = self.prepare(len).and_then(|()| {
            self.maker.vfs.rename(&self.maker.path(file), &path)?;
            self.maker.vfs.sync_dir(&self.maker.path(QUARANTINE))?;
            self.maker.vfs.sync_dir(&self.maker.dir)
        });
        match moved {
            Ok(()) => Some(name),
            Err(error) => {
                tracing::warn!(file, %error, "cannot move a damaged file to the quarantine");
                None
            }
        }
    }

    fn name(&mut self, what: &str) -> String {
        let name = format!("{:010}-{what}", self.next);
        self.next = self.next.saturating_add(1);
        name
    }

    /// Makes the directory, and room in it by removing the oldest copies.
    fn prepare(&self, len: u64) -> io::Result<()> {
        self.maker.vfs.create_dir(&self.maker.path(QUARANTINE))?;
        let mut files = self.files();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, len)| len).sum();
        for (name, len_of_old) in files {
            if total.saturating_add(len) <= self.limit {
                break;
            }
            tracing::warn!(file = name, "the quarantine is full: removing its oldest file");
            self.maker.vfs.remove(&self.maker.path(QUARANTINE).join(&name))?;
            total = total.saturating_sub(len_of_old);
        }
        Ok(())
    }
}

fn sequence(name: &str) -> Option<u64> {
    name.split_once('-')?.0.parse().ok()
}
