//! The system calls that a node program may make (seccomp(2)), whatever becomes of it.
//!
//! A list of what is allowed, for new system calls are where the kernel's new mistakes are. It is generous on
//! purpose: what strace(1) shows of this workspace's suites (`tests/sandbox/calls`), and for each of those its siblings, which the next
//! libc or runtime may prefer, as systemd groups them (`systemd-analyze syscall-filter`: @basic-io, @io-event,
//! @network-io, @signal, @sync, @timer, and of @file-system, @process and @memory what is of use here).
//!
//! - What is not listed answers `ENOSYS`, as a kernel does that is too old for it. Libraries are ready for
//!   that and take another way; `EPERM` would often end theirs. Nobody is killed for it: a migration must not
//!   die of a libc that tries something new.
//! - execve(2) kills. Nothing here ever runs another program, and no library used here does, so whoever calls it
//!   is somebody who has taken this process over.
//! - There are no new processes, only threads: clone3(2) hides its flags from a filter, so it is not there, and every
//!   libc falls back to clone(2), whose flags are looked at.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Whatever their arguments.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // bytes
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64,
    libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2, libc::SYS_pwritev2, libc::SYS_splice, libc::SYS_tee,
    libc::SYS_sendfile, libc::SYS_lseek,
    // descriptors
    libc::SYS_close, libc::SYS_close_range, libc::SYS_dup, libc::SYS_dup3, libc::SYS_fcntl, libc::SYS_flock,
    libc::SYS_pipe2, libc::SYS_eventfd2,
    // files; which ones, Landlock and permissions say
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs,
    libc::SYS_fstatfs, libc::SYS_faccessat, SYS_FACCESSAT2, libc::SYS_readlinkat, libc::SYS_getdents64,
    libc::SYS_getcwd, libc::SYS_mkdirat, libc::SYS_unlinkat, SYS_RENAMEAT, libc::SYS_renameat2, libc::SYS_linkat,
    libc::SYS_fchmod, libc::SYS_fchmodat, SYS_FCHMODAT2, libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_ftruncate,
    libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_umask,
    // waiting
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait,
    SYS_EPOLL_PWAIT2, libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime,
    libc::SYS_nanosleep, libc::SYS_clock_nanosleep,
    // time
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_gettimeofday,
    // sockets; which families, see below
    libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_connect, libc::SYS_shutdown,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt,
    libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_recvmmsg,
    // threads, and what they wait for
    libc::SYS_futex, SYS_FUTEX_WAITV, SYS_FUTEX_WAKE, SYS_FUTEX_WAIT, SYS_FUTEX_REQUEUE, libc::SYS_set_robust_list,
    libc::SYS_get_robust_list, libc::SYS_set_tid_address, libc::SYS_rseq, libc::SYS_membarrier, libc::SYS_gettid,
    libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_getcpu, libc::SYS_exit, libc::SYS_exit_group,
    // signals, to its own threads
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait, libc::SYS_rt_sigsuspend, libc::SYS_sigaltstack, libc::SYS_signalfd4, libc::SYS_tgkill,
    libc::SYS_tkill, libc::SYS_restart_syscall,
    // memory; see below for code
    libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_brk, libc::SYS_mlock, libc::SYS_munlock,
    libc::SYS_msync, libc::SYS_mincore,
    // who and where it is
    libc::SYS_getpid, libc::SYS_getppid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid,
    libc::SYS_getgroups, libc::SYS_getresuid, libc::SYS_getresgid, libc::SYS_capget, libc::SYS_uname, libc::SYS_sysinfo,
    libc::SYS_getrusage, libc::SYS_times, libc::SYS_getrandom,
];

/// The same by the names that x86-64 has from before it had the ones above.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_getdents,
    libc::SYS_mkdir, libc::SYS_unlink, libc::SYS_rename, libc::SYS_link, libc::SYS_chmod, libc::SYS_chown,
    libc::SYS_lchown, libc::SYS_dup2, libc::SYS_pipe, libc::SYS_eventfd, libc::SYS_poll, libc::SYS_select,
    libc::SYS_epoll_create, libc::SYS_epoll_wait, libc::SYS_time, libc::SYS_pause, libc::SYS_arch_prctl,
    libc::SYS_getrlimit,
    // Called by what perf(1) or bpftrace(8) puts into a function that is looked at; from elsewhere it is SIGILL.
    SYS_URETPROBE, SYS_UPROBE,
];
#[cfg(target_arch = "x86_64")]
const SYS_URETPROBE: libc::c_long = 335;
#[cfg(target_arch = "x86_64")]
const SYS_UPROBE: libc::c_long = 336;
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

// By number, for they are the same everywhere, and some libc's do not name them yet.
const SYS_FACCESSAT2: libc::c_long = 439;
const SYS_EPOLL_PWAIT2: libc::c_long = 441;
const SYS_FUTEX_WAITV: libc::c_long = 449;
const SYS_FCHMODAT2: libc::c_long = 452;
const SYS_FUTEX_WAKE: libc::c_long = 454;
const SYS_FUTEX_WAIT: libc::c_long = 455;
const SYS_FUTEX_REQUEUE: libc::c_long = 456;
#[cfg(target_arch = "x86_64")]
const SYS_RENAMEAT: libc::c_long = libc::SYS_renameat;
// In the generic table, of which libc leaves it out.
#[cfg(not(target_arch = "x86_64"))]
const SYS_RENAMEAT: libc::c_long = 38;

/// Nothing here runs another program.
const DEADLY: &[libc::c_long] = &[libc::SYS_execve, libc::SYS_execveat];

/// prctl(2): a thread's name and a mapping's, and the settings that `secrets` and the sandbox itself make.
const PRCTL: &[libc::c_int] = &[
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_SET_DUMPABLE,
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_CAPBSET_READ,
    libc::PR_SET_VMA,
];

/// ioctl(2): what is in a queue, what an interface's number is, whether it is a terminal. Not: typing into one.
const IOCTL: &[u64] = &[
    0x5401,      // TCGETS
    0x802c_542a, // TCGETS2
    0x5411,      // TIOCOUTQ, SIOCOUTQ
    0x5413,      // TIOCGWINSZ
    0x541b,      // FIONREAD
    0x5421,      // FIONBIO
    0x5450,      // FIONCLEX
    0x5451,      // FIOCLEX
    0x8910,      // SIOCGIFNAME
    0x8912,      // SIOCGIFCONF
    0x8913,      // SIOCGIFFLAGS
    0x8915,      // SIOCGIFADDR
    0x8933,      // SIOCGIFINDEX
];

/// Flags of clone(2) that make anything but a thread in the same namespaces.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32 as u64;

/// The filters, to be installed in this order.
///
/// # Errors
/// If there is none for this processor.
pub(super) fn filters() -> Result<[BpfProgram; 2], BackendError> {
    let here = TargetArch::try_from(std::env::consts::ARCH)?;
    Ok([deadly(here)?, allowed(here)?])
}

fn deadly(here: TargetArch) -> Result<BpfProgram, BackendError> {
    let rules = DEADLY.iter().map(|call| (*call, Vec::new())).collect();
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, here)?.try_into()
}

fn allowed(here: TargetArch) -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<_, _> =
        ALLOWED.iter().chain(ALLOWED_HERE).map(|call| (*call, Vec::new())).collect();
    rules.extend(judged()?);
    let otherwise = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    SeccompFilter::new(rules, otherwise, SeccompAction::Allow, here)?.try_into()
}

/// Those that depend on their arguments, and when they are allowed: one of the rules, of each all conditions.
fn judged() -> Result<Vec<(libc::c_long, Vec<SeccompRule>)>, BackendError> {
    let is = |argument, value| when(argument, SeccompCmpOp::Eq, value);
    let has = |argument, mask, value| when(argument, SeccompCmpOp::MaskedEq(mask), value);
    let rule = SeccompRule::new;
    let one_of = |argument, values: &[u64]| -> Result<Vec<_>, _> {
        values.iter().map(|value| rule(vec![is(argument, *value)?])).collect()
    };
    let (write, code) = (libc::PROT_WRITE as u64, libc::PROT_EXEC as u64);
    let thread = libc::CLONE_THREAD as u64;
    let (stream, datagram, kind) = (libc::SOCK_STREAM as u64, libc::SOCK_DGRAM as u64, 0xf);
    let internet = |family: libc::c_int, of_kind| rule(vec![is(0, family as u64)?, has(1, kind, of_kind)?]);
    Ok(vec![
        // Threads, in the namespaces that there are.
        (libc::SYS_clone, vec![rule(vec![has(0, thread | NAMESPACES, thread)?])?]),
        // No code that was not in a file: libraries are mapped as they are.
        (libc::SYS_mmap, vec![rule(vec![has(2, write, 0)?])?, rule(vec![has(2, code, 0)?])?]),
        (libc::SYS_mprotect, vec![rule(vec![has(2, code, 0)?])?]),
        // Unix sockets, TCP and UDP, and what the kernel tells of routes and addresses.
        (
            libc::SYS_socket,
            vec![
                rule(vec![is(0, libc::AF_UNIX as u64)?])?,
                internet(libc::AF_INET, stream)?,
                internet(libc::AF_INET, datagram)?,
                internet(libc::AF_INET6, stream)?,
                internet(libc::AF_INET6, datagram)?,
                rule(vec![is(0, libc::AF_NETLINK as u64)?, is(2, libc::NETLINK_ROUTE as u64)?])?,
            ],
        ),
        (libc::SYS_socketpair, one_of(0, &[libc::AF_UNIX as u64])?),
        (
            libc::SYS_prctl,
            one_of(0, &PRCTL.iter().map(|option| u64::from(option.cast_unsigned())).collect::<Vec<_>>())?,
        ),
        (libc::SYS_ioctl, one_of(1, IOCTL)?),
        // Limits of its own.
        (libc::SYS_prlimit64, one_of(0, &[0])?),
    ])
}

fn when(argument: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value)
}

#[cfg(test)]
mod tests {
    use seccompiler::sock_filter;

    use super::*;

    /// What the kernel's interpreter makes of a program (linux/filter.h), as far as these use it.
    fn run(program: &[sock_filter], call: libc::c_long, arguments: [u64; 6]) -> u32 {
        let arch: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
        let mut data = Vec::new();
        data.extend(u32::try_from(call).expect("a number").to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0u64.to_ne_bytes());
        arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let op = &program[at];
            at += 1;
            let branch = |holds: bool| usize::from(if holds { op.jt } else { op.jf });
            match op.code {
                0x20 => {
                    let from = usize::try_from(op.k).expect("an offset");
                    accumulator = u32::from_ne_bytes(data[from..from + 4].try_into().expect("four"));
                }
                0x05 => at += usize::try_from(op.k).expect("an offset"),
                0x15 => at += branch(accumulator == op.k),
                0x25 => at += branch(accumulator > op.k),
                0x35 => at += branch(accumulator >= op.k),
                0x54 => accumulator &= op.k,
                0x06 => return op.k,
                other => panic!("what is {other:#x}?"),
            }
        }
    }

    const ALLOW: u32 = 0x7fff_0000;
    const KILL: u32 = 0x8000_0000;
    const ABSENT: u32 = 0x0005_0000 | libc::ENOSYS.cast_unsigned();

    /// What comes of all filters together: the strictest.
    fn verdict(call: libc::c_long, arguments: [u64; 6]) -> u32 {
        let all = filters().expect("filters").map(|program| run(&program, call, arguments));
        // KILL_PROCESS is the lowest of all as a signed number, then ERRNO, then ALLOW (linux/seccomp.h)
        all.into_iter().min_by_key(|action| action.cast_signed() & !0xffff).expect("two")
    }

    #[test]
    fn what_is_not_listed_is_not_there_and_nobody_runs_another_program() {
        let listed = |call: &libc::c_long| {
            let judged = judged().expect("rules").into_iter().any(|(known, _)| known == *call);
            judged || ALLOWED.contains(call) || ALLOWED_HERE.contains(call) || DEADLY.contains(call)
        };
        for call in (0..1000).filter(|call| !listed(call)) {
            assert_eq!(verdict(call, [0; 6]), ABSENT, "{call}");
        }
        for call in ALLOWED.iter().chain(ALLOWED_HERE) {
            assert_eq!(verdict(*call, [u64::MAX; 6]), ALLOW, "{call}");
        }
        assert_eq!((verdict(libc::SYS_execve, [0; 6]), verdict(libc::SYS_execveat, [0; 6])), (KILL, KILL));
        for call in [
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_clone3,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_chroot,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_memfd_create,
            libc::SYS_mknodat,
            libc::SYS_symlinkat,
            libc::SYS_kill,
            libc::SYS_setuid,
            libc::SYS_init_module,
            libc::SYS_keyctl,
        ] {
            assert_eq!(verdict(call, [0; 6]), ABSENT, "{call}");
        }
    }

    #[test]
    fn what_depends_on_arguments() {
        let with = |call, at: usize, value: i64| {
            let mut arguments = [0; 6];
            arguments[at] = value.cast_unsigned();
            verdict(call, arguments)
        };
        // glibc's and musl's pthread_create(3), and fork(3)
        let thread = 0x003d_0f00;
        assert_eq!(with(libc::SYS_clone, 0, thread), ALLOW);
        assert_eq!(with(libc::SYS_clone, 0, 0x007d_0f00), ALLOW);
        assert_eq!(with(libc::SYS_clone, 0, 0x0120_0011), ABSENT);
        assert_eq!(with(libc::SYS_clone, 0, thread | i64::from(libc::CLONE_NEWNET)), ABSENT);
        for (protection, allowed) in [(1, true), (3, true), (5, true), (6, false), (7, false)] {
            let verdict = with(libc::SYS_mmap, 2, protection);
            assert_eq!(verdict == ALLOW, allowed, "{protection}");
        }
        assert_eq!((with(libc::SYS_mprotect, 2, 3), with(libc::SYS_mprotect, 2, 5)), (ALLOW, ABSENT));
        let socket = |family: libc::c_int, kind: libc::c_int, protocol: u64| {
            let (family, kind) = (family.cast_unsigned().into(), kind.cast_unsigned().into());
            verdict(libc::SYS_socket, [family, kind, protocol, 0, 0, 0])
        };
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM].map(|kind| kind | flags) {
            for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
                assert_eq!(socket(family, kind, 0), ALLOW, "{family} {kind}");
            }
        }
        assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW | flags, 0), ALLOW);
        assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, 9), ABSENT, "audit");
        assert_eq!(socket(libc::AF_INET, libc::SOCK_RAW, 1), ABSENT);
        for family in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG, libc::AF_BLUETOOTH] {
            assert_eq!(socket(family, libc::SOCK_STREAM, 0), ABSENT, "{family}");
        }
        assert_eq!(with(libc::SYS_ioctl, 1, 0x5412), ABSENT, "TIOCSTI types into a terminal");
        assert_eq!((with(libc::SYS_ioctl, 1, 0x5411), with(libc::SYS_prctl, 0, 15)), (ALLOW, ALLOW));
        assert_eq!(with(libc::SYS_prctl, 0, libc::PR_SET_PTRACER.into()), ABSENT);
        assert_eq!((with(libc::SYS_prlimit64, 0, 0), with(libc::SYS_prlimit64, 0, 1)), (ALLOW, ABSENT));
    }
}
