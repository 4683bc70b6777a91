"""What a plan begins with: its book of accounts, and the paths of its scenarios."""

import numpy as np

from stresslev import assemble
from stresslev.book import files, sample
from stresslev.book.book import Book
from stresslev.config.generator import GeneratedScenarioSpec
from stresslev.config.load import Plan, data_file
from stresslev.config.spec import ScenarioSpec
from stresslev.shocks import generate
from stresslev.shocks.paths import Shock, build


def accounts_of(plan: Plan) -> int:
    """How many accounts the plan's book holds, or will hold once it is sampled."""
    if plan.system.book.file is None:
        return plan.system.book.accounts
    return files.count(data_file(plan.system.book.file, plan.base("system"), "book.file"))


def load_book(plan: Plan, shock: Shock) -> Book:
    """The plan's book: read from its file at the system's marks, or sampled (and restated per scenario)."""
    if plan.system.book.file is None:
        return sample.sample(plan.system, plan.run.seed)
    path = data_file(plan.system.book.file, plan.base("system"), "book.file")
    return files.read(path, plan.system, assemble.reference_prices(plan.system, shock))


def shock_of(plan: Plan, scenario: ScenarioSpec) -> Shock:
    """A scenario of the plan on its grid. Raises InputError for a price file that cannot be used."""
    system, make = plan.system, generate.shock if isinstance(scenario, GeneratedScenarioSpec) else build
    return make(scenario, tuple(system.assets), plan.base_of(scenario), defaults=dict(system.assets), pools=tuple(system.pools))


def smaller_book(plan: Plan, book: Book) -> Book:
    """The book that an attribution runs on: a draw of its own where the sampled one is larger than it may be."""
    if book.account is not None or len(book) <= plan.run.attribution_accounts:
        return book
    fewer = plan.system.book.model_copy(update={"accounts": plan.run.attribution_accounts})
    return sample.sample(plan.system.model_copy(update={"book": fewer}), plan.run.seed)


def at_start_prices(plan: Plan, book: Book, shock: Shock) -> np.ndarray:
    """(A,) USD at which a scenario begins: a book from a file stands at the system's own prices."""
    return book.reference_price if book.account is not None else assemble.reference_prices(plan.system, shock)


def at_start(plan: Plan, book: Book, shock: Shock) -> Book:
    """The book at a scenario's starting prices."""
    if book.account is not None:
        return book
    return sample.margined(book.at_prices(at_start_prices(plan, book, shock)), plan.system)
