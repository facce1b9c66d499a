//! KubeVirt's manager of migration proxies, re-enacted as it was observed, defects included: what
//! ours is measured against. Only what listens is modelled; nothing is relayed.

use std::collections::BTreeMap;

use crate::registry::{Dial, Owner};
use crate::{Channel, Key, PortMap, SocketPath};

/// Words of upstream's that others wait for.
pub const SHUTTING_DOWN: &str = "unable to process new migration connections during virt-handler shutdown";

/// One of its proxies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proxy {
    /// Its port, or none for a source.
    pub port: Option<u16>,
    /// Its file, or none for a target.
    pub file: Option<SocketPath>,
    /// Whom it dials.
    pub dial: Dial,
    /// Its accept loop runs.
    pub accepts: bool,
    /// `stopChan` was closed.
    pub stopped: bool,
}

/// The manager.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Upstream {
    targets: BTreeMap<Key, Vec<Proxy>>,
    sources: BTreeMap<Key, Vec<Proxy>>,
    /// What really listens: places, including those that nobody knows of any more.
    pub listening: Vec<Dial>,
    /// Listening on these fails.
    pub refuse: Vec<Dial>,
    /// Giving a socket file to this one fails.
    pub bad_owner: Option<Owner>,
    next_port: u16,
    shutting_down: bool,
}

impl Upstream {
    /// With a kernel that counts ports from here.
    #[must_use]
    pub fn new(next_port: u16) -> Self {
        Self { next_port, ..Self::default() }
    }

    /// `StartTargetListener`
    ///
    /// # Errors
    /// In upstream's words.
    pub fn start_target(&mut self, key: &Key, backends: &[SocketPath]) -> Result<(), String> {
        if self.shutting_down {
            return Err(SHUTTING_DOWN.into());
        }
        if let Some(known) = self.targets.get(key) {
            let dials = |path: &SocketPath| known.iter().any(|proxy| proxy.dial == Dial::Unix(path.clone()));
            if known.len() == backends.len() && backends.iter().all(dials) {
                return Ok(());
            }
            for proxy in self.targets.get_mut(key).into_iter().flatten() {
                stop(&mut self.listening, proxy)?;
            }
        }
        let mut new = vec![];
        for path in backends {
            let dial = Dial::Unix(path.clone());
            if self.refuse.contains(&dial) {
                for proxy in &mut new {
                    stop(&mut self.listening, proxy)?;
                }
                return Err("listen failed".into());
            }
            self.next_port += 1;
            self.listening.push(dial.clone());
            new.push(Proxy { port: Some(self.next_port), file: None, dial, accepts: true, stopped: false });
        }
        self.targets.insert(key.clone(), new);
        Ok(())
    }

    /// `StopTargetListener`
    ///
    /// # Errors
    /// If it panics.
    pub fn stop_target(&mut self, key: &Key) -> Result<(), String> {
        let Some(proxies) = self.targets.get_mut(key) else { return Ok(()) };
        let any = !proxies.is_empty();
        for proxy in proxies {
            stop(&mut self.listening, proxy)?;
        }
        if any {
            self.targets.remove(key); // `delete` sits inside the loop
        }
        Ok(())
    }

    /// `GetTargetListenerPorts`
    #[must_use]
    pub fn target_ports(&self, key: &Key) -> PortMap {
        let mut ports = PortMap::default();
        for (index, proxy) in self.targets.get(key).into_iter().flatten().enumerate() {
            if let (Some(port), Some(channel)) = (proxy.port, Channel::ALL.get(index)) {
                let _ = ports.insert(port, *channel);
            }
        }
        ports
    }

    /// `StartSourceListener`
    ///
    /// # Errors
    /// In upstream's words.
    pub fn start_source(
        &mut self,
        key: &Key,
        files: &[(SocketPath, Dial)],
        owner: Owner,
    ) -> Result<(), String> {
        if self.shutting_down {
            return Err(SHUTTING_DOWN.into());
        }
        if let Some(known) = self.sources.get(key) {
            // base directory and channel ids are not looked at
            let dials = |dial: &Dial| known.iter().any(|proxy| proxy.dial == *dial);
            if known.len() == files.len() && files.iter().all(|(_, dial)| dials(dial)) {
                return Ok(());
            }
            for proxy in self.sources.get_mut(key).into_iter().flatten() {
                stop(&mut self.listening, proxy)?;
            }
        }
        let mut new = vec![];
        for (path, dial) in files {
            let place = Dial::Unix(path.clone());
            // the second of two takes the first one's file away
            self.listening.retain(|held| *held != place);
            self.listening.push(place);
            if self.bad_owner == Some(owner) {
                for proxy in &mut new {
                    stop(&mut self.listening, proxy)?;
                }
                return Err("chown failed".into()); // `m.listener` not yet set: nobody closes it
            }
            let dial = dial.clone();
            new.push(Proxy { port: None, file: Some(path.clone()), dial, accepts: true, stopped: false });
        }
        self.sources.insert(key.clone(), new);
        Ok(())
    }

    /// `GetSourceListenerFiles`
    #[must_use]
    pub fn source_files(&self, key: &Key) -> Vec<SocketPath> {
        let proxies = self.sources.get(key).into_iter().flatten();
        proxies.filter_map(|proxy| proxy.file.clone()).collect()
    }

    /// Whom the source's proxy with such a file dials.
    pub fn source_dials(&self, key: &Key, is_it: impl Fn(&SocketPath) -> bool) -> Option<&Dial> {
        let proxies = self.sources.get(key).into_iter().flatten();
        proxies.filter(|proxy| proxy.file.as_ref().is_some_and(&is_it)).map(|proxy| &proxy.dial).next()
    }

    /// accept(2) returned an error, to each proxy of the target.
    pub fn accept_fails(&mut self, key: &Key) {
        for proxy in self.targets.get_mut(key).into_iter().flatten() {
            proxy.accepts = false; // for good, and the listener stays open
        }
    }

    /// Whether connections to the target are accepted.
    #[must_use]
    pub fn target_accepts(&self, key: &Key) -> bool {
        self.targets.get(key).is_some_and(|proxies| proxies.iter().all(|proxy| proxy.accepts))
    }

    /// `InitiateGracefulShutdown`
    pub const fn shut_down(&mut self) {
        self.shutting_down = true;
    }

    /// `OpenListenerCount`: keys, whatever they have.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.targets.len() + self.sources.len()
    }
}

fn stop(listening: &mut Vec<Dial>, proxy: &mut Proxy) -> Result<(), String> {
    if proxy.stopped {
        return Err("panic: close of closed channel".into());
    }
    proxy.stopped = true;
    let place = match &proxy.file {
        Some(path) => Dial::Unix(path.clone()),
        None => proxy.dial.clone(),
    };
    if let Some(index) = listening.iter().position(|held| *held == place) {
        listening.remove(index);
    }
    Ok(())
}
