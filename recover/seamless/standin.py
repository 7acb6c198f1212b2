"""The server that stands in for a dead daemon: its connection, read-only, from the newest mount.

What path-like callers ask once after a swap is sent to walk again where that helps (ESTALE, at most
once: the kernel repeats a walk once); all else is answered as the dead daemon would have, with the
inode numbers that programs saw, and from no other version of a file than theirs.
"""

import collections
import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator

from recover.seamless import callers, files, handles, wire
from recover.seamless.files import Backings, Caller, Changed, Owned, Root
from recover.seamless.handles import Anchor
from recover.seamless.link import LISTING_BYTES, Answer
from recover.seamless.names import Names, Node, join
from recover.seamless.wire import Entry, Malformed, Op, Request

_VALID_S = 1  # how long the kernel may keep names and attributes: the content behind may change
_FRESH_S = 2.0  # after a swap, in which callers are sent to walk again
_TOLD = 65536
_OTHER_CALL = 64  # waits of a thread after which it is in another call than when it was sent
_GUESS_S = 1.0  # for the generation of a number that nobody holds; a wrong guess asks nobody
_LEARN_S = 2.0  # what a lookup waits for the numbers that processes hold
_TRIES = 3  # when the newest mount is replaced while it is read
_LISTINGS = 64
_FIRST_HANDLE = 1 << 62


class Dataset:
    """What the stand-ins of one source share: the newest root, and whether all was swapped to it.

    swapped_at is when that was, or began.  is_sending tells whether threads are sent to walk again;
    told are those that were, with their number of waits until then.
    """

    def __init__(self) -> None:
        self.root: Root | None = None
        self.coming = ""  # the superblock whose root is being opened
        self.swapped_at = 0.0  # monotonic
        self.is_swapped = False
        self.is_sending = False
        self.told: dict[tuple[int, bool], int] = {}

    def newest(self, besides: str) -> Root:
        """Return the newest root, which is of another superblock; raises OSError without one.

        Who reads in the mount that he serves waits for himself.
        """
        root = self.root
        if root is None or root.dev == besides:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return root


class StandIn:
    """Answers for one connection; several threads may."""

    def __init__(self, dev: str, dataset: Dataset, *, ids_are_ours: bool) -> None:
        """Take the superblock, and whether the process ids in its requests are those seen here."""
        self.dev = dev
        self.names = Names()
        self.backings = Backings()
        self.noted = threading.Event()  # what processes hold is known
        self.learned = threading.Event()  # and the directories above it, too
        self.anchor: Anchor | None = None
        self.asked_at = time.monotonic()
        self._dataset = dataset
        self._ids_are_ours = ids_are_ours
        self._lock = threading.Lock()
        self._listings: collections.OrderedDict[tuple[int, int], list[Entry]]
        self._listings = collections.OrderedDict()
        self._next_handle = _FIRST_HANDLE
        self._ops: dict[int, Callable[[Request, Node], bytes]] = {
            Op.LOOKUP: self._look_up,
            Op.GETATTR: self._get_attributes,
            Op.READLINK: self._read_link,
            Op.STATFS: self._statistics,
            Op.GETXATTR: self._get_xattr,
            Op.LISTXATTR: self._list_xattrs,
            Op.ACCESS: self._access,
            Op.OPEN: self._open,
            Op.OPENDIR: self._open_folder,
            Op.READDIR: self._list,
            Op.READDIRPLUS: self._list,
            Op.LSEEK: self._seek,
        }

    def answer(self, message: bytes, room: memoryview | None = None) -> Answer | None:
        """Return the answer to a request, None where none is wanted; never raises for a request.

        room is memory to be filled by a READ, beyond what that asks for if there is more of it.
        """
        unique = wire.unique_of(message)
        try:
            return self._answer(wire.parse(message), room)
        except (Changed, Malformed, KeyError, OverflowError):
            return Answer(unique, errno.EIO)
        except OSError as error:
            return Answer(unique, error.errno or errno.EIO)

    def _answer(self, request: Request, room: memoryview | None) -> Answer | None:
        if request.op in {Op.FORGET, Op.BATCH_FORGET}:
            self._forget(request)
            return None
        if request.op == Op.RELEASEDIR:
            self._release(request)
            return None
        if self._may_walk_again(request):
            return Answer(request.unique, errno.ESTALE)
        self.asked_at = time.monotonic()
        node = self._resolve(request.node)
        for _ in range(_TRIES):
            root = self._dataset.root
            try:
                return self._serve(request, node, room)
            except OSError:
                self.backings.drop(request.node)
                if root is self._dataset.root:
                    raise
        return self._serve(request, node, room)

    def _serve(self, request: Request, node: Node, room: memoryview | None) -> Answer:
        if request.op == Op.READ:
            return self._read(request, node, room)
        return Answer(request.unique, body=self._ops[request.op](request, node))

    # -- walking again ---------------------------------------------------------------------------

    def settle(self) -> None:
        """Close what is open in older mounts than the newest."""
        self.backings.keep_only(self._dataset.root)

    def _may_walk_again(self, request: Request) -> bool:
        """Tell whether a caller is sent to walk again, as into the new mount.

        Not one who opens: he may have looked at the file before the crash, and compares.
        """
        if request.op not in wire.STAT_LIKE or not request.pid or not self._ids_are_ours:
            return False
        dataset = self._dataset
        if not dataset.is_sending or time.monotonic() - dataset.swapped_at > _FRESH_S:
            return False
        if not callers.began_outside(request.pid, self.dev):
            return False
        key = request.pid, self._is_last(request)
        waits, before = callers.waits(request.pid), dataset.told.get(key)
        if waits is None or (before is not None and waits < before + _OTHER_CALL):
            return False  # the kernel goes there again once: the next ESTALE is the program's
        if len(dataset.told) >= _TOLD:
            dataset.told.clear()
        dataset.told[key] = waits
        return True

    def _is_last(self, request: Request) -> bool:
        """Tell whether stat(2) asks for a file at the end of its walk, which it repeats as well."""
        node = self.names.get(request.node)
        return request.op == Op.GETATTR and node is not None and node.version is not None

    # -- numbers ---------------------------------------------------------------------------------

    def _resolve(self, number: int) -> Node:
        """Return what a number in a request means; raises OSError ESTALE.

        The waiting request keeps its inode in the kernel's cache, where it is found.
        """
        node = self.names.get(number) or self._find(number)
        if node is None:  # a generation that only who holds it can tell
            self._await_numbers()
            node = self.names.get(number) or self._find(number)
        if node is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return node

    def _await_numbers(self) -> None:
        """Wait until the numbers that processes hold are known, for a bounded time."""
        (self.learned if self._dataset.is_swapped else self.noted).wait(_LEARN_S)

    def _find(self, number: int) -> Node | None:
        anchor = self._anchor()
        if anchor is None:
            return None
        end = time.monotonic() + _GUESS_S
        for generation in self.names.generations(number):
            with contextlib.suppress(OSError):
                return self.names.learn(number, anchor.find(number, generation))
            if time.monotonic() >= end:  # its caller was killed, or each guess would not ask nobody
                break
        return None

    def _anchor(self) -> Anchor | None:
        if self.anchor is None:  # aside, for it may ask what we are to answer
            aside = threading.Thread(target=self.borrow_anchor, daemon=True)
            aside.start()
            aside.join(_LEARN_S)
        return self.anchor

    def borrow_anchor(self) -> None:
        """Find an anchor where we were given none, or have let it go."""
        if self.anchor is None:
            self.anchor = handles.borrow(self.dev)

    def prove(self, mark: int, root: Owned | None) -> None:
        """Ask the dead daemon for a mark: the holder sees that it has this very connection.

        root is an O_PATH descriptor of the volume's, as long as there is no anchor.
        """
        with contextlib.suppress(OSError):
            if root is not None:
                os.getxattr(f"/proc/self/fd/{root.fd}", wire.mark_name(mark))
            elif (anchor := self._anchor()) is not None:
                anchor.mark(mark)

    def learn(self, fd: int) -> None:
        """Take note of the number behind a descriptor that somebody holds; raises OSError."""
        number, generation = handles.number_of(fd)
        anchor = self.anchor
        if self.names.get(number) is None and anchor is not None:
            self.names.learn(number, anchor.find(number, generation))

    @property
    def may_ask(self) -> bool:
        """Whether the kernel's questions to the dead daemon are answered by us now."""
        return self._dataset.is_swapped

    def climb(self) -> None:
        """Take note also of the directories above those that somebody holds; may ask us."""
        for number, node in self.names.known():
            anchor = self.anchor
            if anchor is None or number == wire.ROOT or node.version is not None:
                continue
            with contextlib.suppress(OSError):  # no directory, or nobody holds it any more
                self._learn_until_known(anchor.above(number, node.generation))
        self.learned.set()

    def _learn_until_known(self, folders: Iterator[int]) -> None:
        for fd in folders:
            if self.names.get(handles.number_of(fd)[0]) is not None:
                return  # and what is above that is known, or will be
            self.learn(fd)

    def _forget(self, request: Request) -> None:
        for number, count in wire.forgotten(request):
            if self.names.forget(number, count):
                self.backings.drop(number)

    # -- the operations --------------------------------------------------------------------------

    def _look_up(self, request: Request, node: Node) -> bytes:
        self._await_numbers()  # a directory that somebody holds must keep its own
        path = join(node.path, os.fsdecode(wire.name(request.body)))
        found = self._newest().stat(path, _caller(request))
        number, child = self.names.look_up(path, files.version(found))
        attributes = wire.attributes(found, child.ino)
        # Until all is swapped a walk ends in a mount that is about to go: whoever wants attributes
        # asks for them then, and is sent to the next one.
        valid_s = _VALID_S if self._dataset.is_swapped else 0
        return wire.entry(number, child.generation, valid_s, attributes)

    def _get_attributes(self, _: Request, node: Node) -> bytes:
        found = self._newest().stat(node.path)
        if files.version(found) != node.version:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return wire.attr_out(_VALID_S, wire.attributes(found, node.ino))

    def _read_link(self, request: Request, node: Node) -> bytes:
        place = self._newest().place(node.path, _caller(request))
        return os.fsencode(os.readlink("", dir_fd=place.fd))

    def _statistics(self, _: Request, __: Node) -> bytes:
        root = self._newest().owned  # kept until the call has ended
        return wire.statistics(os.fstatvfs(root.fd))

    def _get_xattr(self, request: Request, node: Node) -> bytes:
        room, name = wire.xattr(request.body)
        place = self._newest().place(node.path)
        with callers.acting_as(request.uid, request.gid):
            return wire.sized(room, os.getxattr(f"/proc/self/fd/{place.fd}", name))

    def _list_xattrs(self, request: Request, node: Node) -> bytes:
        room = wire.xattr_room(request.body)
        place = self._newest().place(node.path)
        with callers.acting_as(request.uid, request.gid):
            names = os.listxattr(f"/proc/self/fd/{place.fd}")
        return wire.sized(room, b"".join(os.fsencode(name) + b"\0" for name in names))

    def _newest(self) -> Root:
        return self._dataset.newest(self.dev)

    def _access(self, request: Request, node: Node) -> bytes:
        mask = wire.access_mask(request.body) & 7
        place = self._newest().place(node.path)
        with callers.acting_as(request.uid, request.gid):
            if not os.access(f"/proc/self/fd/{place.fd}", mask, effective_ids=True):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return b""

    def _open(self, request: Request, node: Node) -> bytes:
        if wire.open_flags(request.body) & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        self.backings.of(request.node, node, self._newest(), _caller(request))
        return wire.opened(self._new_handle(), wire.FOPEN_KEEP_CACHE)

    def _new_handle(self) -> int:
        with self._lock:
            self._next_handle += 1
            return self._next_handle

    def _file(self, number: int, node: Node) -> Owned:
        return self.backings.of(number, node, self._newest())

    def _read(self, request: Request, node: Node, room: memoryview | None) -> Answer:
        asked = wire.span(request.body)
        if room is None or len(room) < asked.size:
            raise Malformed("a READ without room")
        file = self._file(request.node, node)
        return Answer(request.unique, shared=os.preadv(file.fd, [room], asked.offset))

    def _seek(self, request: Request, node: Node) -> bytes:
        asked = wire.seek(request.body)
        if asked.whence not in {os.SEEK_DATA, os.SEEK_HOLE}:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        file = self._file(request.node, node)
        return wire.position(os.lseek(file.fd, asked.offset, asked.whence))

    # -- listings --------------------------------------------------------------------------------

    def _open_folder(self, request: Request, node: Node) -> bytes:
        entries = self._newest().listing(node.path, _caller(request))
        handle = self._new_handle()
        self._keep(request.node, handle, entries)
        return wire.opened(handle)

    def _list(self, request: Request, node: Node) -> bytes:
        asked = wire.span(request.body)
        entries = self._listing(request.node, node, asked.handle, asked.offset)
        rest = _after(entries, asked.offset)
        room = min(asked.size, LISTING_BYTES)
        return wire.listing(rest, room, plus=request.op == Op.READDIRPLUS)

    def _listing(self, number: int, node: Node, handle: int, offset: int) -> list[Entry]:
        """Return the entries behind a handle; raises OSError EIO rather than guess.

        A reader in the middle of a listing goes on by the dead daemon's cookie: that means the same
        place only if the daemon lists the same way each time, and knows the cookie.
        """
        known = self._listings.get((number, handle))
        if known is not None and offset:
            return known
        root = self._newest()
        entries = root.listing(node.path)
        if offset and (
            _order(entries) != _order(root.listing(node.path))
            or all(each.cookie != offset for each in entries)
        ):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._keep(number, handle, entries)
        return entries

    def _keep(self, number: int, handle: int, entries: list[Entry]) -> None:
        with self._lock:
            self._listings[number, handle] = entries
            if len(self._listings) > _LISTINGS:
                self._listings.popitem(last=False)

    def _release(self, request: Request) -> None:
        with self._lock:
            self._listings.pop((request.node, wire.handle(request.body)), None)


def _caller(request: Request) -> Caller:
    is_root = (request.uid, request.gid) == (0, 0)
    return files.ROOT if is_root else Caller(request.uid, request.gid)


def _order(entries: list[Entry]) -> list[tuple[bytes, int]]:
    return [(each.name, each.cookie) for each in entries]


def _after(entries: list[Entry], cookie: int) -> Iterator[Entry]:
    if not cookie:
        return iter(entries)
    place = next((i for i, each in enumerate(entries) if each.cookie == cookie), len(entries))
    return iter(entries[place + 1 :])
