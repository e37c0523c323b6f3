"""Answers to 3.5 with a known verdict."""

from grader.controls import right, wrong

SCALE = " * (1 / keep if keep > 0 else 0.0)"
RETURN = "        return x * kept * (1 / keep if keep > 0 else 0.0)  # p=1: 0/0 would be NaN\n"
KEPT = "kept = torch.rand_like(x) < keep"
EVAL = "        if not self.training:\n            return x\n"
NET = "return self.net(x.flatten(1)).squeeze(1)"
FIRST = "            Dropout(dropout),\n            nn.Linear(hidden, hidden),\n"
SECOND = "            Dropout(dropout),\n            nn.Linear(hidden, 1),\n"
MC_MODES = "    model.eval()\n    for module in model.modules():\n        if isinstance"
ISINSTANCE = "isinstance(module, Dropout | nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d)"
DRAWS = "draws = torch.stack([model(x).sigmoid() for _ in range(samples)])"
RESTORE = "        for module, mode in modes:\n            module.training = mode\n"
MOMENTS = "    return draws.mean(dim=0), draws.std(dim=0, correction=0)\n"

WRONG = [
    wrong(
        "no_scaling", "shapes", "gradients", "convergence",
        says="You drop elements but do not divide the kept ones by 1-p: the expected output is smaller than the input.",
        edit={SCALE: ""},
    ),
    wrong(
        "scaling_in_eval_instead", "shapes", "gradients", "convergence",
        says="You multiply by 1-p in eval mode instead of dividing in training. Here eval mode must return x itself.",
        edit={EVAL: "        if not self.training:\n            return x * (1 - self.p)\n", SCALE: ""},
    ),
    wrong(
        "keep_and_drop_swapped", "shapes", "gradients", "convergence",
        says="You keep an element with probability p. p is the probability of dropping it.",
        edit={"keep = 1 - self.p": "keep = self.p"},
    ),
    wrong(
        "keeps_too_many_for_its_scale", "shapes", "convergence",
        says="You keep with probability p but divide by 1-p (or the reverse): the comparison is the wrong way round.",
        edit={KEPT: "kept = torch.rand_like(x) > keep"},
    ),
    wrong(
        "scaled_by_p", "shapes", "gradients", "convergence",
        says="You divide by p. Kept elements are divided by the probability of keeping, 1-p.",
        edit={SCALE: " / max(self.p, 1e-12)"},
    ),
    wrong(
        "one_mask_per_row", "shapes",
        says="One coin per row: all elements of a row fall together. The mask needs the full shape of x.",
        edit={KEPT: "kept = torch.rand(x.shape[:1] + (1,) * (x.ndim - 1)) < keep"},
    ),
    wrong(
        "one_mask_per_batch", "shapes",
        says="One mask for all rows of the batch: draw one of the full shape of x.",
        edit={KEPT: "kept = torch.rand(x.shape[1:]) < keep"},
    ),
    wrong(
        "one_coin_per_call", "shapes", "gradients",
        says="One coin per call keeps or drops everything at once. The mask needs the full shape of x.",
        edit={KEPT: "kept = torch.rand(()) < keep"},
    ),
    wrong(
        "the_same_mask_in_every_call", "shapes",
        says="You draw the mask once and use it again. Draw it in forward, anew in each call.",
        edit={
            "        self.p = p\n": "        self.p = p\n        self.masks = {}\n",
            KEPT: "kept = self.masks.setdefault((x.shape, x.dtype), torch.rand_like(x)) < keep",
        },
    ),
    wrong(
        "exactly_a_share", "shapes",
        says="You drop exactly a share p of the elements. Each element tosses its own coin, so the number varies.",
        edit={KEPT: "kept = (torch.randperm(x.numel()) < round(keep * x.numel())).view(x.shape)"},
    ),
    wrong(
        "own_random_stream", "shapes",
        says="Your masks come from a stream of their own. Use torch's global stream: torch.manual_seed must repeat them.",
        edit={
            "        self.p = p\n": "        self.p = p\n        self.stream = torch.Generator()\n        self.stream.seed()\n",
            KEPT: "kept = torch.rand(x.shape, generator=self.stream) < keep",
        },
    ),
    wrong(
        "active_in_eval", "shapes", "gradients",
        says="Your dropout is active in eval mode. Ask self.training.",
        edit={EVAL: ""},
    ),
    wrong(
        "nan_at_p_1", "shapes", "gradients",
        says="With p=1 you compute 0/0, which is NaN. Dropping everything gives zeros.",
        edit={SCALE: " / keep"},
    ),
    wrong(
        "nan_gradient_at_p_1", "gradients",
        says="With p=1 your output is 0 but its gradient is NaN: torch.where multiplies the infinite slope of x / 0 by 0.",
        edit={RETURN: "        return torch.where(kept, x / torch.tensor(keep, dtype=x.dtype), 0.0)\n"},
    ),
    wrong(
        "in_place", "shapes", "gradients",
        says="You change the caller's tensor in place. Return a new one.",
        edit={
            RETURN:
                "        with torch.no_grad():\n            x.mul_(kept).mul_(1 / keep if keep > 0 else 0.0)\n"
                "        return x\n",
        },
    ),
    wrong(
        "detached_mask_product", "gradients",
        says="You detach the output: no gradient passes your dropout.",
        edit={"return x * kept * (1": "return x.detach() * kept * (1"},
    ),
    wrong(
        "wraps_functional_dropout", "shapes",
        says="Your Dropout calls torch's dropout. Write it yourself: random numbers, a comparison, a multiplication.",
        edit={RETURN: "        return nn.functional.dropout(x, self.p, training=True)\n"},
    ),
    wrong(
        "subclasses_nn_dropout", "shapes",
        says="Your Dropout inherits its forward from nn.Dropout. Write it yourself.",
        define="class Dropout(nn.Dropout):\n    pass\n",
    ),
    wrong(
        "no_validation", "shapes",
        says="Probabilities outside [0, 1], wrong shapes and samples=0 are accepted; the contract asks for a ValueError.",
        edit={"if not 0 <= p <= 1:": "if False:", "if samples < 1:": "if False:", "if x.ndim != 3 or": "if False and"},
    ),
    wrong(
        "dropout_after_the_last_layer", "shapes", "gradients",
        says="You drop logits: nothing may follow the last layer.",
        edit={"            nn.Linear(hidden, 1),\n": "            nn.Linear(hidden, 1),\n            Dropout(dropout),\n"},
    ),
    wrong(
        "dropout_on_the_sequence", "shapes",
        says="You drop bases of the sequence itself. Dropout follows the two hidden layers only.",
        edit={
            "            nn.Linear(4 * length, hidden),\n":
                "            Dropout(dropout),\n            nn.Linear(4 * length, hidden),\n",
        },
    ),
    wrong(
        "second_dropout_missing", "shapes",
        says="The second hidden layer has no dropout behind it.",
        edit={SECOND: "            nn.Linear(hidden, 1),\n"},
    ),
    wrong(
        "first_dropout_missing", "shapes",
        says="The first hidden layer has no dropout behind it.",
        edit={FIRST: "            nn.Linear(hidden, hidden),\n"},
    ),
    wrong(
        "functional_dropout_of_one_half", "shapes", "gradients", "convergence",
        says="BindingMLP drops one half whatever `dropout` says, and by a function call that mc_dropout cannot find.",
        edit={
            FIRST: "            nn.Linear(hidden, hidden),\n",
            SECOND: "            nn.Linear(hidden, 1),\n",
            NET: "h = nn.functional.dropout(self.net[:2](x.flatten(1)), 0.5, self.training)\n"
                 "        return self.net[4](nn.functional.dropout(self.net[2:4](h), 0.5, self.training)).squeeze(1)",
        },
    ),
    wrong(
        "logits_as_a_column", "shapes", "gradients",
        says="Your logits are (batch, 1) instead of (batch,): against labels (batch,) they would broadcast to (batch, batch).",
        edit={NET: "return self.net(x.flatten(1))"},
    ),
    wrong(
        "fit_ignores_dropout", "shapes",
        says="fit_binding does not pass `dropout` on to the model.",
        edit={"BindingMLP(length=train[0].shape[2], dropout=dropout)": "BindingMLP(length=train[0].shape[2])"},
    ),
    wrong(
        "trained_in_eval_mode", "convergence",
        says="You train in eval mode: dropout never acts, and the network learns its 600 probes by heart.",
        edit={
            "        history = fit(\n            model,":
                "        history = fit(\n            never_in_training(model),",
        },
        define='''
def never_in_training(model):
    class InEvalMode(nn.Module):
        def forward(self, x):
            return model.eval()(x)

    return InEvalMode()
''',
    ),
    wrong(
        "fit_reads_the_global_stream", "shapes",
        says="fit_binding ignores its generator: initial weights and dropout come from the global stream, which moves on.",
        edit={"    with seeded(generator):\n        model =": "    with seeded(None):\n        model ="},
    ),
    wrong(
        "fit_sets_the_global_seed", "shapes",
        says="torch.manual_seed in fit_binding resets the global stream for everybody else. Use fixtures.randomness.seeded.",
        edit={
            "    with seeded(generator):\n        model =":
                "    if generator is not None:\n        torch.manual_seed(generator.initial_seed())\n"
                "    with seeded(None):\n        model =",
        },
    ),
    wrong(
        "mc_with_everything_in_train_mode", "shapes",
        says="model.train() in mc_dropout wakes BatchNorm too: it uses the batch's statistics and overwrites its own.",
        edit={MC_MODES: "    model.train()\n    for module in model.modules():\n        if isinstance"},
    ),
    wrong(
        "mc_in_eval_mode", "shapes", "convergence",
        says="Dropout is off in your mc_dropout: all samples are equal.",
        edit={f"        if {ISINSTANCE}:\n            module.train()\n": "        pass\n"},
    ),
    wrong(
        "mc_knows_its_own_dropout_only", "shapes",
        says="Your mc_dropout switches on your Dropout only. Models also hold nn.Dropout and its relatives.",
        edit={ISINSTANCE: "isinstance(module, Dropout)"},
    ),
    wrong(
        "mc_knows_torch_dropout_only", "shapes", "convergence",
        says="Your mc_dropout switches on nn.Dropout only, not your own Dropout.",
        edit={ISINSTANCE: "isinstance(module, nn.Dropout)"},
    ),
    wrong(
        "mc_of_one_mask", "shapes", "convergence",
        says="Every sample uses the same masks: draw them anew in each pass.",
        edit={DRAWS: "draws = torch.stack([model(x).sigmoid()] * samples)"},
    ),
    wrong(
        "mc_ignores_samples", "shapes",
        says="mc_dropout must average exactly `samples` passes.",
        edit={DRAWS: "draws = torch.stack([model(x).sigmoid() for _ in range(50)])"},
    ),
    wrong(
        "mc_mean_of_logits", "shapes", "gradients", "convergence",
        says="You return the mean of the logits. Average probabilities.",
        edit={DRAWS: "draws = torch.stack([model(x) for _ in range(samples)])"},
    ),
    wrong(
        "mc_sigmoid_of_the_mean", "shapes",
        says="You apply the sigmoid to the mean logit. The mean of probabilities is another number.",
        edit={
            DRAWS: "draws = torch.stack([model(x) for _ in range(samples)])",
            MOMENTS: "    return draws.mean(dim=0).sigmoid(), draws.sigmoid().std(dim=0, correction=0)\n",
        },
    ),
    wrong(
        "mc_sample_deviation", "shapes",
        says="Your deviation divides by samples - 1: NaN for a single sample. The contract divides by samples (correction=0).",
        edit={"correction=0)\n": "correction=1)\n"},
    ),
    wrong(
        "mc_variance", "shapes",
        says="You return the variance; the contract asks for its root, the standard deviation.",
        edit={MOMENTS: "    return draws.mean(dim=0), draws.var(dim=0, correction=0)\n"},
    ),
    wrong(
        "mc_builds_a_graph", "gradients",
        says="mc_dropout builds a graph: 50 passes keep all their activations in memory.",
        edit={"with torch.no_grad(), seeded(generator):": "with seeded(generator):"},
    ),
    wrong(
        "mc_leaves_eval_mode", "shapes",
        says="After mc_dropout the model is in other modes than before: dropout would be off for the rest of the training.",
        edit={RESTORE: "        model.eval()\n"},
    ),
    wrong(
        "mc_wakes_frozen_parts", "shapes",
        says="model.train() at the end wakes every submodule, also those that were frozen in eval mode.",
        edit={RESTORE: "        model.train()\n"},
    ),
    wrong(
        "mc_restores_only_on_success", "shapes",
        says="When the model raises, its modes are not restored. Use `finally`.",
        edit={
            "    try:\n        with torch.no_grad(), seeded(generator):\n    ":
                "    with torch.no_grad(), seeded(generator):\n",
            "    finally:\n" + RESTORE: "    for module, mode in modes:\n        module.training = mode\n",
        },
    ),
    wrong(
        "mc_moves_the_global_stream", "shapes",
        says="mc_dropout ignores its generator and draws from the global stream, which then moves on.",
        edit={"with torch.no_grad(), seeded(generator):": "with torch.no_grad(), seeded(None):"},
    ),
    wrong(
        "loop_over_rows", "throughput",
        says="You draw a mask for each row; one call draws them all.",
        edit={KEPT: "kept = torch.stack([torch.rand(row.shape) < keep for row in x])"},
    ),
    wrong(
        "loop_over_rows_forward", "throughput",
        says="You treat the rows one by one; one multiplication does them all.",
        edit={
            "keep = 1 - self.p":
                "keep = 1 - self.p\n        if x.ndim > 1:\n"
                "            return torch.stack([self(row) for row in x])",
        },
    ),
    wrong(
        "mc_loop_over_sequences_and_samples", "throughput",
        says="You loop over samples *and* sequences. Each pass takes the whole batch.",
        edit={DRAWS: "draws = torch.stack([torch.cat([model(row[None]).sigmoid() for row in x]) for _ in range(samples)])"},
    ),
]  # fmt: skip

RIGHT = [
    right(
        "bernoulli_deepcopy_and_own_loop",
        define="""
from copy import deepcopy

class Dropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        if p < 0 or p > 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p = p

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        if self.p == 1:
            return torch.zeros_like(x)
        mask = torch.empty_like(x).bernoulli_(1 - self.p)
        return x * mask / (1 - self.p)


class BindingMLP(nn.Module):
    def __init__(self, length=20, hidden=128, dropout=0.8):
        super().__init__()
        if length <= 0 or hidden <= 0:
            raise ValueError(f"length and hidden must be positive, got {length} and {hidden}")
        self.length = length
        self.fc1 = nn.Linear(4 * length, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 1)
        self.drop = Dropout(dropout)

    def forward(self, x):
        if x.dim() != 3 or tuple(x.shape[1:]) != (4, self.length):
            raise ValueError(f"x: expected (batch, 4, {self.length}), got {tuple(x.shape)}")
        x = x.reshape(x.size(0), -1)
        x = self.drop(torch.relu(self.fc1(x)))
        x = self.drop(torch.relu(self.fc2(x)))
        return self.fc3(x).flatten()


def fit_binding(train, *, dropout=0.8, epochs=40, generator=None):
    if epochs < 1:
        raise ValueError(f"epochs must be positive, got {epochs}")
    state = torch.get_rng_state()
    if generator is not None:
        torch.manual_seed(torch.randint(2**40, (1,), generator=generator).item())
    try:
        inputs, labels = train
        model = BindingMLP(length=inputs.size(2), dropout=dropout)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_size=32, shuffle=True)
        criterion = nn.BCEWithLogitsLoss()
        history = History()
        model.train()
        for epoch in range(epochs):
            losses = []
            for x, y in loader:
                optimizer.zero_grad()
                loss = criterion(model(x), y)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            history.train_loss.append(sum(losses) / len(losses))
            history.lr.append(0.001)
        history.best_epoch = epochs - 1
    finally:
        if generator is not None:
            torch.set_rng_state(state)
    return model, history


def mc_dropout(model, x, *, samples=50, generator=None):
    if samples <= 0:
        raise ValueError(f"samples must be positive, got {samples}")
    copy = deepcopy(model).eval()
    for module in copy.modules():
        if "Dropout" in type(module).__name__:
            module.train()
    total, squares = 0, 0
    with torch.no_grad(), seeded(generator):
        for _ in range(samples):
            p = torch.sigmoid(copy(x))
            total = total + p
            squares = squares + p * p
    mean = total / samples
    return mean, torch.sqrt(torch.clamp(squares / samples - mean**2, min=0))
""",
    ),
    right(
        "where_and_repeat_along_the_batch",
        define="""
class Dropout(nn.Module):
    def __init__(self, p=0.5):
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p = {p} is not a probability")
        self.p = p

    def forward(self, x):
        if self.training and self.p > 0:
            dropped = torch.rand(x.shape, dtype=x.dtype, device=x.device) < self.p
            scaled = x / (1 - self.p) if self.p < 1 else x
            x = torch.where(dropped, torch.zeros_like(x), scaled)
        return x


@torch.inference_mode()
def mc_dropout(model, x, *, samples=50, generator=None):
    if samples < 1:
        raise ValueError(f"expected samples >= 1, got {samples}")
    kinds = (Dropout, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
    before = {module: module.training for module in model.modules()}
    try:
        for module in before:
            module.training = isinstance(module, kinds)
        with seeded(generator):
            p = model(x.repeat(samples, *[1] * (x.ndim - 1))).sigmoid().view(samples, len(x))
    finally:
        for module, mode in before.items():
            module.training = mode
    mean = p.mean(0)
    return mean, (p - mean).square().mean(0).sqrt()
""",
    ),
    right(
        "autograd_function_and_chunks",
        define="""
class Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p):
        keep = torch.bernoulli(torch.full(x.shape, 1.0 - p, dtype=x.dtype))
        factor = keep / (1.0 - p) if p < 1 else keep
        ctx.save_for_backward(factor)
        return x * factor

    @staticmethod
    def backward(ctx, grad_output):
        (factor,) = ctx.saved_tensors
        return grad_output * factor, None


class Dropout(nn.Module):
    def __init__(self, p: float = 0.5):
        super().__init__()
        p = float(p)
        if p < 0.0 or p > 1.0:
            raise ValueError(f"p must be in [0, 1], got {p}")
        self.p = p

    def forward(self, x):
        return Dropped.apply(x, self.p) if self.training else x.clone()


class BindingMLP(nn.Module):
    def __init__(self, length=20, hidden=128, dropout=0.8):
        super().__init__()
        for value in (length, hidden):
            if value < 1:
                raise ValueError(f"sizes must be at least 1, got length={length}, hidden={hidden}")
        self.shape = torch.Size((4, length))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(n, hidden), Dropout(dropout), nn.ReLU()) for n in (4 * length, hidden)
        )
        self.head = nn.Linear(hidden, 1)

    def forward(self, x):
        if x.shape[1:] != self.shape:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, 4, {self.shape[1]})")
        x = torch.flatten(x, start_dim=1)
        for block in self.blocks:
            x = block(x)
        return self.head(x)[..., 0]


def fit_binding(train, *, dropout=0.8, epochs=40, generator=None):
    with seeded(generator):
        model = BindingMLP(train[0].shape[-1], dropout=dropout)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        history = fit(
            model, train, loss_fn=nn.BCEWithLogitsLoss(), optimizer=optimizer, epochs=epochs, batch_size=32, generator=generator
        )
    return model.eval(), history


def mc_dropout(model, x, *, samples=50, generator=None):
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples}")
    modes = [module.training for module in model.modules()]
    stream = torch.get_rng_state()
    if generator is not None:
        torch.set_rng_state(generator.get_state())
    try:
        model.train(False)
        for module in model.modules():
            if isinstance(module, (Dropout, nn.modules.dropout._DropoutNd)):
                module.training = True
        probabilities = []
        with torch.no_grad():
            for _ in range(samples):
                probabilities.append(1 / (1 + torch.exp(-model(x))))
        if generator is not None:
            generator.set_state(torch.get_rng_state())
    finally:
        for module, mode in zip(model.modules(), modes):
            module.training = mode
        if generator is not None:
            torch.set_rng_state(stream)
    std, mean = torch.std_mean(torch.stack(probabilities, dim=1), dim=1, unbiased=False)
    return mean, std
""",
    ),
]
