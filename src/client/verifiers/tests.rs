//! The cache against a primary that says what it is told to.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A lookup that gives what is in the cell, and counts.
#[derive(Default)]
struct Primary {
    answer: Mutex<Option<Result<Option<Role>, LookupError>>>,
    asked: AtomicUsize,
}

impl Primary {
    fn says(&self, answer: Result<Option<Role>, LookupError>) {
        *self.answer.lock().unwrap() = Some(answer);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    fn lookup(self: &Arc<Self>) -> Lookup {
        let primary = Arc::clone(self);
        Arc::new(move |_user| {
            let primary = Arc::clone(&primary);
            Box::pin(async move {
                primary.asked.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                primary.answer.lock().unwrap().clone().unwrap()
            })
        })
    }
}

fn role(password: &str) -> Role {
    Role {
        verifier: Ok(Verifier::from_password(password, [1; 16], 1)),
        can_login: true,
        valid_until: f64::INFINITY,
        connection_limit: None,
        superuser: false,
        replication: false,
    }
}

fn verifiers(primary: &Arc<Primary>, ttl: Duration, capacity: usize) -> Verifiers {
    let config = VerifiersConfig {
        ttl,
        stale: Duration::from_secs(3600),
        timeout: Duration::from_secs(5),
        capacity,
        cluster_secret: Arc::from(&b"secret"[..]),
    };
    Verifiers::new(Configured::new(&[]).unwrap(), Some(primary.lookup()), config)
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_verifier_is_read_once_until_a_login_fails() {
    let primary = Arc::new(Primary::default());
    primary.says(Ok(Some(role("one"))));
    let verifiers = verifiers(&primary, LONG, 10);
    let alice = Arc::from("alice");
    for _ in 0..3 {
        assert!(verifiers.subject(&alice).await.unwrap().verifier.matches("one").is_some());
    }
    assert_eq!(primary.asked(), 1);
    primary.says(Ok(Some(role("two"))));
    verifiers.doubt("alice");
    assert!(verifiers.subject(&alice).await.unwrap().verifier.matches("two").is_some());
    assert_eq!(primary.asked(), 2);
}

#[tokio::test]
async fn many_logins_at_once_share_a_lookup() {
    let primary = Arc::new(Primary::default());
    primary.says(Ok(Some(role("one"))));
    let verifiers = verifiers(&primary, Duration::ZERO, 10);
    let alice = Arc::from("alice");
    let all = (0..20).map(|_| verifiers.subject(&alice));
    for subject in futures_util::future::join_all(all).await {
        assert!(subject.unwrap().unusable.is_none());
    }
    // The first one's answer may be older than the others, who share the second.
    assert_eq!(primary.asked(), 2);
    verifiers.subject(&alice).await.unwrap();
    assert_eq!(primary.asked(), 3, "a verifier of age zero is not used twice");
}

#[tokio::test]
async fn without_a_primary_the_last_verifier_serves() {
    let primary = Arc::new(Primary::default());
    let verifiers = verifiers(&primary, Duration::ZERO, 10);
    let alice = Arc::from("alice");
    primary.says(Err(LookupError::NoPrimary));
    assert_eq!(verifiers.subject(&alice).await.unwrap_err(), LookupError::NoPrimary);
    primary.says(Ok(Some(role("one"))));
    verifiers.subject(&alice).await.unwrap();
    primary.says(Err(LookupError::NoPrimary));
    assert!(verifiers.subject(&alice).await.unwrap().unusable.is_none());
    // A role that is known to be gone is gone.
    primary.says(Ok(None));
    assert_eq!(verifiers.subject(&alice).await.unwrap().unusable, Some(Unusable::Unknown));
    primary.says(Err(LookupError::NoPrimary));
    assert_eq!(verifiers.subject(&alice).await.unwrap_err(), LookupError::NoPrimary);
}

#[tokio::test]
async fn a_password_expires_in_a_warm_cache() {
    let primary = Arc::new(Primary::default());
    let verifiers = verifiers(&primary, LONG, 10);
    let alice = Arc::from("alice");
    let mut dying = role("one");
    dying.valid_until = unix_time() + 0.2;
    primary.says(Ok(Some(dying.clone())));
    assert!(verifiers.subject(&alice).await.unwrap().unusable.is_none());
    while unix_time() <= dying.valid_until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(verifiers.subject(&alice).await.unwrap().unusable, Some(Unusable::Expired));
    assert_eq!(primary.asked(), 1);
}

#[tokio::test]
async fn the_cache_is_bounded_and_keeps_no_unknown_user() {
    let primary = Arc::new(Primary::default());
    let verifiers = verifiers(&primary, LONG, 10);
    primary.says(Ok(Some(role("one"))));
    for n in 0..50 {
        verifiers.subject(&Arc::from(format!("user{n}"))).await.unwrap();
    }
    assert!(verifiers.len() <= 10);
    primary.says(Ok(None));
    let before = verifiers.len();
    for n in 0..50 {
        verifiers.subject(&Arc::from(format!("ghost{n}"))).await.unwrap();
    }
    assert!(verifiers.len() <= before);
}

#[tokio::test]
async fn configured_users_need_no_lookup() {
    let primary = Arc::new(Primary::default());
    let verifier = Verifier::from_password("two", [3; 16], 1).to_secret_string();
    let users = [
        User { name: "app".into(), secret: UserSecret::Password(Arc::from("one")) },
        User { name: "other".into(), secret: UserSecret::Verifier(Arc::from(verifier)) },
    ];
    let config = verifiers(&primary, LONG, 10).config;
    let verifiers = Verifiers::new(Configured::new(&users).unwrap(), None, config);
    let app = verifiers.subject(&Arc::from("app")).await.unwrap();
    assert!(app.verifier.matches("one").is_some() && app.password.is_some());
    let other = verifiers.subject(&Arc::from("other")).await.unwrap();
    assert!(other.verifier.matches("two").is_some() && other.password.is_none());
    let ghost = verifiers.subject(&Arc::from("ghost")).await.unwrap();
    assert_eq!(ghost.unusable, Some(Unusable::Unknown));

    let bad = [User { name: "bad".into(), secret: UserSecret::Verifier(Arc::from("md5")) }];
    assert_eq!(Configured::new(&bad).unwrap_err().0, "bad");

    // Others from here on, and nobody else.
    let users = [User { name: "ghost".into(), secret: UserSecret::Password(Arc::from("three")) }];
    verifiers.configure(Configured::new(&users).unwrap());
    assert!(verifiers.password("ghost").is_some() && verifiers.password("app").is_none());
    assert!(verifiers.subject(&Arc::from("ghost")).await.unwrap().verifier.matches("three").is_some());
    assert_eq!(verifiers.subject(&Arc::from("app")).await.unwrap().unusable, Some(Unusable::Unknown));
}

#[tokio::test]
async fn sessions_of_a_role_are_counted() {
    let verifiers = verifiers(&Arc::new(Primary::default()), LONG, 10);
    let alice = Arc::from("alice");
    let first = verifiers.count_session(&alice, Some(1)).unwrap();
    assert!(verifiers.count_session(&alice, Some(1)).is_none());
    drop(first);
    assert!(verifiers.count_session(&alice, Some(1)).is_some());
    assert!(verifiers.count_session(&alice, Some(0)).is_none());
    assert!(verifiers.count_session(&alice, None).is_some());
}
