//! What the daemon is made of, as far as it has to know: who is well, who can change what while it
//! runs, and how each is stopped, in order, none longer than it may.

use std::{future::Future, pin::Pin, time::Duration};

use anyhow::{Context, Result};
use tokio::time::{Instant, timeout_at};

use crate::{config::Config, tokens::Tokens};

/// What a part does with what was read again.
pub type Apply = Box<dyn Fn(&Reloaded<'_>) -> Work + Send + Sync>;
/// What takes a part some time, and what that comes to.
pub type Work = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// One part that runs.
pub struct Part {
    /// What to call it in messages.
    pub name: &'static str,
    /// Whether it does its work. Asked every second at least, so it must not wait.
    pub is_well: Box<dyn Fn() -> bool + Send + Sync>,
    /// What it can change while it runs, if anything.
    pub reload: Option<Reload>,
    /// Stops it. Must leave the thread to others while it waits.
    pub stop: Box<dyn FnOnce() -> Work + Send>,
    /// How long that may take, besides what those before it left of theirs.
    pub limit: Duration,
}

/// What a part can change while it runs.
pub struct Reload {
    /// The keys that it takes, whole or as sections: `history.retention`.
    pub keys: &'static [&'static str],
    /// Takes what was read again, whether or not it changed. Must leave the thread to others while
    /// it waits.
    pub apply: Apply,
}

/// What was read again, and is right.
pub struct Reloaded<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Who may ask.
    pub tokens: &'a Tokens,
}

/// All parts that run, in the order in which they are to be stopped.
#[derive(Default)]
pub struct Parts(Vec<Part>);

impl Parts {
    /// A part that was started, to be stopped after those that were added before it.
    pub fn add(&mut self, part: Part) {
        self.0.push(part);
    }

    /// Those that do not do their work.
    #[must_use]
    pub fn ill(&self) -> Vec<&'static str> {
        let ill = self.0.iter().filter(|part| !(part.is_well)());
        ill.map(|part| part.name).collect()
    }

    /// Whether a part takes changes of a key while it runs.
    #[must_use]
    pub fn reloads(&self, key: &str) -> bool {
        let takes = |taken: &&'static str| {
            key.strip_prefix(*taken)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let mut reloads = self.0.iter().filter_map(|part| part.reload.as_ref());
        reloads.any(|reload| reload.keys.iter().any(takes))
    }

    /// Gives each part what was read again. One that cannot take it says so, and stays as it was.
    /// What is returned is over when every part is done.
    pub fn reload(&self, reloaded: &Reloaded<'_>) -> impl Future<Output = ()> + Send + 'static {
        let begun: Vec<_> = self
            .0
            .iter()
            .filter_map(|part| {
                let reload = part.reload.as_ref()?;
                Some((part.name, (reload.apply)(reloaded)))
            })
            .collect();
        async move {
            for (name, work) in begun {
                if let Err(error) = work.await {
                    tracing::error!("reloading: {name}: {error:#}");
                }
            }
        }
    }

    /// Stops one after the other. One that fails, or takes longer than it may, keeps none of the
    /// others from being stopped; what it leaves of its time is theirs.
    ///
    /// # Errors
    /// What the first that failed said; the others are told in the log.
    pub async fn stop(self) -> Result<()> {
        let mut failed = Ok(());
        let mut end = Instant::now();
        for part in self.0 {
            let began = Instant::now();
            end += part.limit;
            let stopped = match timeout_at(end, (part.stop)()).await {
                Ok(stopped) => stopped.with_context(|| format!("stopping {}", part.name)),
                Err(_) => {
                    // The process ends anyway, and takes with it what hangs.
                    tracing::error!(
                        "{} did not stop within {:.1} s: going on without",
                        part.name,
                        began.elapsed().as_secs_f64()
                    );
                    Ok(())
                }
            };
            if let Err(error) = stopped {
                if failed.is_ok() {
                    failed = Err(error);
                } else {
                    tracing::error!("{error:#}");
                }
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    };

    use anyhow::anyhow;

    use super::*;

    type Stopped = Arc<Mutex<Vec<&'static str>>>;

    /// A part that notes when it is stopped, after `wait`.
    fn part(
        name: &'static str,
        stopped: &Stopped,
        wait: Duration,
        result: Result<(), &'static str>,
    ) -> Part {
        let stopped = Arc::clone(stopped);
        Part {
            name,
            is_well: Box::new(|| true),
            reload: None,
            stop: Box::new(move || {
                Box::pin(async move {
                    tokio::time::sleep(wait).await;
                    stopped.lock().unwrap().push(name);
                    result.map_err(|why| anyhow!(why))
                })
            }),
            limit: Duration::from_millis(200),
        }
    }

    #[tokio::test]
    async fn parts_stop_in_order_and_one_that_fails_or_hangs_keeps_none_from_it() {
        let stopped = Stopped::default();
        let mut parts = Parts::default();
        let now = Duration::ZERO;
        parts.add(part("captures", &stopped, now, Err("broken")));
        parts.add(part("hangs", &stopped, Duration::from_secs(60), Ok(())));
        parts.add(part("api", &stopped, now, Err("broken too")));
        parts.add(part("history", &stopped, now, Ok(())));
        let began = std::time::Instant::now();
        let error = format!("{:#}", parts.stop().await.unwrap_err());
        assert_eq!(error, "stopping captures: broken");
        assert_eq!(*stopped.lock().unwrap(), ["captures", "api", "history"]);
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_part_has_what_those_before_it_left_of_their_time() {
        let stopped = Stopped::default();
        let mut parts = Parts::default();
        let limit = Duration::from_secs(30);
        parts.add(Part {
            limit,
            ..part("api", &stopped, Duration::ZERO, Ok(()))
        });
        // Longer than its own limit.
        let wait = Duration::from_millis(300);
        parts.add(part("history", &stopped, wait, Ok(())));
        parts.stop().await.unwrap();
        assert_eq!(*stopped.lock().unwrap(), ["api", "history"]);
    }

    #[tokio::test]
    async fn a_part_that_hangs_is_no_failure() {
        let mut parts = Parts::default();
        parts.add(part(
            "hangs",
            &Stopped::default(),
            Duration::from_secs(60),
            Ok(()),
        ));
        parts.stop().await.unwrap();
    }

    #[test]
    fn who_is_ill_is_asked_each_time() {
        let well = Arc::new(AtomicBool::new(true));
        let mut parts = Parts::default();
        parts.add(part("one", &Stopped::default(), Duration::ZERO, Ok(())));
        parts.add(Part {
            is_well: Box::new({
                let well = Arc::clone(&well);
                move || well.load(Ordering::Relaxed)
            }),
            ..part("other", &Stopped::default(), Duration::ZERO, Ok(()))
        });
        assert_eq!(parts.ill(), [""; 0]);
        well.store(false, Ordering::Relaxed);
        assert_eq!(parts.ill(), ["other"]);
    }

    #[tokio::test]
    async fn a_part_takes_the_keys_that_it_names_and_what_was_read() {
        let taken = Arc::new(Mutex::new(None));
        let mut parts = Parts::default();
        let reload = |apply| Reload {
            keys: &["history.retention", "history.max_clients"],
            apply,
        };
        parts.add(Part {
            reload: Some(reload(Box::new(|_| {
                Box::pin(async { Err(anyhow!("cannot")) })
            }))),
            ..part("fails", &Stopped::default(), Duration::ZERO, Ok(()))
        });
        parts.add(Part {
            reload: Some(reload({
                let taken = Arc::clone(&taken);
                Box::new(move |reloaded| {
                    let (taken, max_clients) =
                        (Arc::clone(&taken), reloaded.config.history.max_clients);
                    Box::pin(async move {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        *taken.lock().unwrap() = Some(max_clients);
                        Ok(())
                    })
                })
            })),
            ..part("takes", &Stopped::default(), Duration::ZERO, Ok(()))
        });
        for key in ["history.retention.days_days", "history.max_clients"] {
            assert!(parts.reloads(key), "{key}");
        }
        for key in [
            "history.max_servers",
            "history.retention_",
            "history",
            "log.level",
        ] {
            assert!(!parts.reloads(key), "{key}");
        }
        let mut config = Config::default();
        config.history.max_clients = 1234;
        let reloading = parts.reload(&Reloaded {
            config: &config,
            tokens: &Tokens::default(),
        });
        reloading.await;
        assert_eq!(*taken.lock().unwrap(), Some(1234));
    }
}
