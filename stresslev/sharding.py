"""Many devices: where the accounts of a run lie, and how the engine's programs run over them.

A `Sharding` is a mesh of devices with two axes. Along `accounts` the blocks of every population are dealt out like cards, so that each device has
its share of every pool and of the work; everything else of a state, markets and ledgers, stands on all devices alike and is computed on all of them.
Along `scenarios` whole runs are dealt out. The step itself knows of it only that its sums over accounts are sums over devices (`engine.blocks`).
Without a mesh it is one device: every method then does what it would do if there were no such thing.

Several processes (`processes`) each hold what lies on their own devices. All of them call the same methods in the same order with the same arguments.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from stresslev.assemble import links
from stresslev.engine import batch, simulate
from stresslev.engine.batch import Rules
from stresslev.engine.loans import Loans
from stresslev.engine.simulate import Population
from stresslev.engine.step import Record
from stresslev.engine.types import Accounts, Channels, Owners, Policy, State, System
from stresslev.engine.types import Path as EnginePath

#: Axes of the mesh.
SCENARIOS, ACCOUNTS = "scenarios", "accounts"


def _dealt(x) -> bool:
    return isinstance(x, (Accounts, Loans))


def _marked(tree, axis: str | None):
    """The tree with populations that know over which axis they lie."""
    return jax.tree.map(lambda x: dataclasses.replace(x, axis=axis) if _dealt(x) else x, tree, is_leaf=_dealt)


def _specs(tree, runs: bool = False):
    """Where the parts of a tree lie: accounts and the links between them are dealt out, all else is everywhere. `runs`: there is a leading axis."""
    lead = (SCENARIOS,) if runs else ()
    blocks, rest = P(*lead, ACCOUNTS), P(*lead)

    def of(x):
        if _dealt(x):
            return blocks
        return Owners(slot=P(ACCOUNTS), owner=P(ACCOUNTS), links=P(ACCOUNTS), top_up=P(), keep=P()) if isinstance(x, Owners) else rest

    return jax.tree.map(of, tree, is_leaf=lambda x: _dealt(x) or isinstance(x, Owners))


@dataclasses.dataclass(frozen=True)
class Sharding:
    """The devices of a run. `mesh` None: one device."""

    mesh: Mesh | None = None
    _programs: dict = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def over(cls, devices: Sequence[jax.Device], scenarios: int = 1) -> "Sharding":
        """Accounts dealt out over these devices; with `scenarios` > 1, runs of a batch over as many groups of them. One device needs no mesh."""
        if len(devices) % scenarios:
            raise ValueError(f"{len(devices)} devices cannot be parted into {scenarios} groups")
        return cls() if len(devices) == 1 else cls(Mesh(np.array(devices).reshape(scenarios, -1), (SCENARIOS, ACCOUNTS)))

    @property
    def devices(self) -> int:
        """Devices over which accounts are dealt out."""
        return 1 if self.mesh is None else self.mesh.shape[ACCOUNTS]

    @property
    def processes(self) -> int:
        """Processes that hold them."""
        return 1 if self.mesh is None else len({d.process_index for d in self.mesh.devices.flat})

    def describe(self) -> dict[str, int]:
        """Attributes of a dataset."""
        return {"devices": 1 if self.mesh is None else self.mesh.size, "processes": self.processes}

    # Placing

    def _put(self, x, spec: P) -> jax.Array:
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, NamedSharding(self.mesh, spec), lambda index: host[index])

    def everywhere(self, tree):
        """A tree that stands on all devices alike."""
        return tree if self.mesh is None else jax.tree.map(lambda x: self._put(x, P()), tree)

    def deal(self, population: Population) -> Population:
        """A population on the host, or on one device, dealt out: padded with empty blocks to a multiple of the devices. A profile is everywhere."""
        if self.mesh is None:
            return jax.tree.map(jnp.array, population)
        if not _dealt(population):
            return self.everywhere(population)
        blocks = population.block_pool.shape[0]
        most = -(-blocks // self.devices) * self.devices
        order = np.arange(most).reshape(-1, self.devices).T.reshape(-1)

        def longer(x, fill=0):
            x = np.asarray(x)
            return np.concatenate([x, np.full((most - blocks, *x.shape[1:]), fill, x.dtype)])[order]

        padded = jax.tree.map(longer, population)
        padded = dataclasses.replace(padded, block_pool=longer(population.block_pool, np.asarray(population.block_pool)[-1]))
        if isinstance(population, Accounts):
            padded = dataclasses.replace(padded, entry=tuple(longer(e, 1) for e in population.entry))
        return self.blocks(padded)

    def blocks(self, tree):
        """A tree of arrays by block, in the order in which `deal` has put them, on the devices that have the blocks."""
        return jax.tree.map(jnp.asarray if self.mesh is None else lambda x: self._put(x, P(ACCOUNTS)), tree)

    def rules(self, system: System, populations: Sequence[Population]) -> System:
        """The system on all devices, with the links of owners where the linked accounts are. Args: `populations` before they are dealt out."""
        if self.mesh is None:
            return system
        placed = self.everywhere(dataclasses.replace(system, owners=None))
        if system.owners is None:
            return placed
        dealt = _deal_links(system.owners, [p.liquidated.shape for p in populations], self.devices)
        small = self.everywhere((system.owners.top_up, system.owners.keep))
        return dataclasses.replace(placed, owners=Owners(*self.blocks(dealt), *small))

    # Running

    def _program(self, function: Callable, arguments: tuple, out, *, inside=None, outside=None, donate: tuple[int, ...] = ()):
        """`function` over the mesh, compiled once per structure of its arguments. `inside` are their specs, `out` those of the result."""
        key = function, jax.tree.structure(arguments), donate
        if key not in self._programs:

            def local(*arguments):
                return _marked(function(*_marked(arguments, ACCOUNTS)), None)

            mapped = jax.shard_map(local, mesh=self.mesh, in_specs=_specs(arguments) if inside is None else inside, out_specs=out, check_vma=False)
            self._programs[key] = jax.jit(mapped, donate_argnums=donate)
        return self._programs[key]

    def apply(self, function: Callable, *arguments, blocks=None, by_block: bool = False):
        """`function` of a state, rules and the like, in one program. Its result is the same on all devices, or `by_block`: arrays of blocks.

        Args: `blocks`, a last argument of arrays of blocks.
        """
        arguments, inside = (arguments, None) if blocks is None else ((*arguments, blocks), (*_specs(arguments), P(ACCOUNTS)))
        if self.mesh is None:
            return function(*arguments)
        return self._program(function, arguments, P(ACCOUNTS) if by_block else P(), inside=inside)(*arguments)

    def initial_state(self, system: System, populations: tuple, *, policy: Policy, mark_history: int, notice: int) -> State:
        """`simulate.initial_state` of what has been placed."""

        def begin(system, populations, policy):
            return simulate.initial_state(system, populations, policy=policy, mark_history=mark_history, notice=notice)

        if self.mesh is None:
            return begin(system, populations, policy)
        shapes = jax.eval_shape(begin, system, populations, policy)
        return self._program(begin, (system, populations, policy), _specs(shapes))(system, populations, policy)

    def advance(self, state: State, system: System, policy: Policy, channels: Channels, path: EnginePath, rounds, tolerance) -> tuple[State, Record]:
        """`simulate.advance` of what has been placed; channels, path and limits may be on the host. The state is donated."""
        if self.mesh is None:
            return simulate.advance(state, system, policy, channels, path, rounds, tolerance)
        arguments = (state, system, policy, *self.everywhere((channels, path, rounds, tolerance)))
        return self._program(simulate.advance, arguments, (_specs(state), P()), donate=(0,))(*arguments)

    def advance_batch(self, states: State, own: Rules, shared: Rules, *, width: int = 1) -> tuple[State, Record]:
        """`batch.advance_batch`: several runs, dealt out over the scenarios' axis of the mesh; their number must be `filled`."""
        if self.mesh is None:
            return batch.advance_batch(states, own, shared, width=width)
        mine = jax.tree.map(lambda x: self._put(x, P(SCENARIOS)), own)
        path, rounds, tolerance = self.everywhere((shared.path, shared.max_rounds, shared.tolerance))
        arguments = states, mine, dataclasses.replace(shared, path=path, max_rounds=rounds, tolerance=tolerance)
        inside = (_specs(states, True), P(SCENARIOS), _specs(arguments[2]))
        return self._program(batch.run_batch, arguments, (_specs(states, True), P(SCENARIOS)), inside=inside, donate=(0,))(*arguments)

    def filled(self, runs: int) -> int:
        """The next number of runs that can be dealt out over groups."""
        groups = 1 if self.mesh is None else self.mesh.shape[SCENARIOS]
        return -(-runs // groups) * groups

    def repeated(self, state: State, times: int) -> State:
        """A state as often as asked for, with a leading axis of runs."""

        def many(state):
            return jax.tree.map(lambda x: jnp.copy(jnp.broadcast_to(x[None], (times, *x.shape))), state)

        if self.mesh is None:
            return many(state)
        where = jax.tree.map(lambda x, s: NamedSharding(self.mesh, s), *_whole(state, _specs(state, True)))
        return jax.jit(many, out_shardings=where)(state)

    # Back to the host

    def gathered(self, x: jax.Array) -> np.ndarray:
        """The whole of an array on the host of every process; blocks in the order of `deal`."""
        return np.asarray(x) if x.is_fully_addressable or x.is_fully_replicated else multihost_utils.process_allgather(x, tiled=True)

    def bare(self, state: State) -> State:
        """The state without accounts, apart from any mesh."""
        if self.mesh is None:
            return state
        return _local(dataclasses.replace(state, populations=tuple(p for p in state.populations if not _dealt(p))))

    def own(self, state: State) -> State:
        """The state as far as this process holds it, apart from any mesh: its own blocks, and all that is everywhere."""
        if self.mesh is None:
            return state

        def mine(x):
            parts = [s for s in x.addressable_shards if s.replica_id == 0]
            parts = sorted(parts, key=lambda s: s.index[0].start or 0)
            return np.concatenate([np.asarray(s.data) for s in parts]) if parts else np.zeros((0, *x.shape[1:]), x.dtype)

        populations = tuple(jax.tree.map(mine, p) if _dealt(p) else _local(p) for p in state.populations)
        return dataclasses.replace(self.bare(state), populations=populations)

    def total(self, *values: np.ndarray) -> tuple[np.ndarray, ...]:
        """Sums over processes of what each has found on its own accounts, in float64."""
        if self.processes == 1:
            return values
        with jax.enable_x64(True):
            return tuple(np.asarray(multihost_utils.process_allgather(np.asarray(v))).sum(axis=0) for v in values)


#: One device, without a mesh.
ONE = Sharding()


def _local(tree):
    """What is everywhere, on this process's first device."""
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), tree)


def _whole(tree, specs):
    """A tree and its specs, which stand for whole branches, with a spec for every leaf."""
    return tree, jax.tree.map(lambda spec, branch: jax.tree.map(lambda _: spec, branch), specs, tree, is_leaf=lambda x: isinstance(x, P))


def _deal_links(owners: Owners, shapes: Sequence[tuple[int, int]], devices: int) -> tuple:
    """Slots and owners of the links of each device, by population, and each device's table of links (`Owners.links`), one device after the other."""
    slots, ids, by_device, first = [], [], [([], []) for _ in range(devices)], 0
    for slot, owner, (blocks, size) in zip(owners.slot, owners.owner, shapes, strict=True):
        block, place = np.divmod(np.asarray(slot), size)
        device, here = block % devices, block // devices * size + place
        most = max(np.bincount(device, minlength=devices).max(initial=0), 1)
        held = -(-blocks // devices) * size
        # links to nobody point past the end, each to a place of its own
        local, who = np.tile(held + np.arange(most), (devices, 1)), np.zeros((devices, most), int)
        for d in range(devices):
            mine = np.flatnonzero(device == d)
            local[d, : len(mine)], who[d, : len(mine)] = here[mine], np.asarray(owner)[mine]
            by_device[d][0].append(who[d, : len(mine)])
            by_device[d][1].append(first + np.arange(len(mine)))
        slots.append(local.astype(np.int32).reshape(-1))
        ids.append(who.astype(np.int32).reshape(-1))
        first += most
    tables = [links.table(who, owners.links.shape[0], at) for who, at in by_device]
    widest = max(t.shape[1] for t in tables)
    tables = [np.pad(t, ((0, 0), (0, widest - t.shape[1])), constant_values=links.NO_LINK) for t in tables]
    return tuple(slots), tuple(ids), np.concatenate(tables)
