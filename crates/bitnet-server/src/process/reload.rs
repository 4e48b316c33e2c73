//! What SIGHUP changes: the settings that may change while the server runs, keys, the key of tokens, the certificate.
//! What is wrong changes nothing, and the log says what came of it.

use std::sync::Arc;

use crate::auth::Guard;
use crate::config::{ServerConfig, Sources};
use crate::log::{LIFE, LogFilter};
#[cfg(target_os = "linux")]
use crate::service_manager::ServiceManager;
use crate::tls::TlsIdentity;

/// What SIGHUP changes.
pub(super) struct Reload {
    pub guard: Arc<Guard>,
    pub tls: Option<Arc<TlsIdentity>>,
    pub log: LogFilter,
    pub config: ServerConfig,
    pub sources: Sources,
    #[cfg(target_os = "linux")]
    pub manager: ServiceManager,
}

impl Reload {
    /// Reads them again at every hangup.
    pub async fn follow(mut self, mut hangups: tokio::signal::unix::Signal) {
        while hangups.recv().await.is_some() {
            #[cfg(target_os = "linux")]
            self.manager.reloading();
            // Files are read: not on a thread that serves.
            let read = tokio::task::spawn_blocking(move || {
                self.read();
                self
            });
            match read.await {
                Ok(reload) => self = reload,
                Err(error) => {
                    tracing::error!(
                        "reading the configuration failed: {error}; nothing will be read again"
                    );
                    return;
                }
            }
            #[cfg(target_os = "linux")]
            self.manager.ready();
        }
    }

    /// Takes over what has changed; what is wrong changes nothing.
    fn read(&mut self) {
        match ServerConfig::load(&self.sources) {
            Ok(fresh) => {
                let reloaded = self.config.reload(&fresh);
                self.guard.set_limits(&self.config.limits);
                let level = "monitoring.log_level".to_owned();
                if reloaded.changed.contains(&level)
                    && let Err(error) = self.log.set(&self.config.monitoring.log_level)
                {
                    tracing::error!("{error}; the log stays as it was");
                }
                tracing::info!(
                    target: LIFE,
                    changed = ?reloaded.changed,
                    needs_restart = ?reloaded.needs_restart,
                    "read the configuration"
                );
            }
            Err(error) => {
                tracing::error!(target: LIFE, "{error}; the configuration stays as it was")
            }
        }
        match self.guard.credentials().reload_keys() {
            Some(Ok(n_keys)) => tracing::info!(target: LIFE, n_keys, "read the keys"),
            Some(Err(error)) => {
                tracing::error!(target: LIFE, "{error}; the keys stay as they were")
            }
            None => {}
        }
        match self.guard.credentials().reload_token_key() {
            Some(Ok(())) => tracing::info!(target: LIFE, "read the key of tokens"),
            Some(Err(error)) => {
                tracing::error!(target: LIFE, "{error}; the key of tokens stays as it was")
            }
            None => {}
        }
        match self.tls.as_ref().map(|tls| tls.reload()) {
            Some(Ok(())) => tracing::info!(target: LIFE, "read the certificate"),
            Some(Err(error)) => {
                tracing::error!(target: LIFE, "{error}; the certificate stays as it was");
            }
            None => {}
        }
    }
}
