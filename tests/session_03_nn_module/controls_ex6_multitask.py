"""Answers to 3.6 with a known verdict."""

from grader.controls import right, wrong

HEADS = "        return self.expression_head(features).squeeze(1), self.tissue_head(features)\n"
NORM = "            nn.BatchNorm1d(channels),\n"
RELU = "            nn.ReLU(),\n"
SQUARED_ERROR = '        squared_error = F.mse_loss(predicted[measured], expression[measured], reduction="sum")\n'
CROSS_ENTROPY = '        cross_entropy = F.cross_entropy(logits[annotated], labels, reduction="sum")\n'
MSE = "        mse = squared_error / measured.sum().clamp(min=1)\n"
CE = "        ce = cross_entropy / annotated.sum().clamp(min=1)\n"
TERMS = "        terms = torch.stack([mse / 2, ce]) * torch.exp(-self.log_variance) + self.log_variance / 2\n"
PRESENT = "        present = torch.stack([measured.any(), annotated.any()])\n"
RETURN = "        return terms[present].sum()\n"
PARAMETERS = "[*net.parameters(), *loss_fn.parameters()]"
CONV = 'nn.Conv1d(4, channels, width, padding="same")'

WRONG = [
    # the net
    wrong(
        "softmax_in_the_tissue_head", "shapes", "gradients", "convergence",
        says="Your net returns tissue probabilities. Return the logits: the cross-entropy applies the softmax.",
        edit={HEADS: HEADS.replace("self.tissue_head(features)", "self.tissue_head(features).softmax(dim=1)")},
    ),
    wrong(
        "expression_is_a_column", "shapes", "gradients", "convergence",
        says="Your expression has the shape (batch, 1). Drop the last axis, or subtracting (batch,) makes it (batch, batch).",
        edit={HEADS: HEADS.replace(".squeeze(1)", "")},
    ),
    wrong(
        "squeeze_of_every_axis", "shapes",
        says="squeeze() also drops the batch axis of a batch of one sequence. Name the axis: squeeze(1).",
        edit={HEADS: HEADS.replace(".squeeze(1)", ".squeeze()")},
    ),
    wrong(
        "two_trunks", "shapes", "gradients",
        says="You have a trunk for each task: they share nothing. One trunk, whose features both heads read.",
        edit={
            "        self.expression_head = nn.Linear(hidden, 1)\n":
                "        self.tissue_trunk = nn.Sequential(\n"
                '            nn.Conv1d(4, channels, width, padding="same"), nn.BatchNorm1d(channels), nn.ReLU(),\n'
                "            nn.AdaptiveMaxPool1d(2), nn.Flatten(), nn.Linear(2 * channels, hidden), nn.ReLU(),\n"
                "        )\n"
                "        self.expression_head = nn.Linear(hidden, 1)\n",
            HEADS: HEADS.replace("self.tissue_head(features)", "self.tissue_head(self.tissue_trunk(x))"),
        },
    ),
    wrong(
        "trunk_runs_twice", "shapes",
        says="Your trunk runs twice in a forward pass, once for each head. Keep its features in a variable.",
        edit={HEADS: HEADS.replace("self.tissue_head(features)", "self.tissue_head(self.trunk(x))")},
    ),
    wrong(
        "detached_for_the_tissue", "gradients", "convergence",
        says="You detach the features before the tissue head: tissue labels cannot teach the trunk.",
        edit={HEADS: HEADS.replace("self.tissue_head(features)", "self.tissue_head(features.detach())")},
    ),
    wrong(
        "mean_pooling", "shapes", "gradients",
        says="You average over the positions: one motif drowns among 40 bases. AdaptiveMaxPool1d keeps the strongest match.",
        edit={"nn.AdaptiveMaxPool1d(2)": "nn.AdaptiveAvgPool1d(2)"},
    ),
    wrong(
        "one_pooled_value_per_channel", "shapes",
        says="You pool the whole sequence into one value per channel; the contract asks for two, one for each half.",
        edit={
            "nn.AdaptiveMaxPool1d(2)": "nn.AdaptiveMaxPool1d(1)",
            "nn.Linear(2 * channels, hidden)": "nn.Linear(channels, hidden)",
        },
    ),
    wrong(
        "no_padding", "shapes", "gradients",
        says='Your convolution drops the ends of the sequence. Give it padding="same".',
        edit={CONV: "nn.Conv1d(4, channels, width)"},
    ),
    wrong(
        "no_normalisation", "shapes",
        says="There is no BatchNorm1d between the convolution and the ReLU.",
        edit={NORM: ""},
    ),
    wrong(
        "normalisation_after_the_relu", "shapes", "gradients",
        says="You normalise after the ReLU. The order is convolution, BatchNorm1d, ReLU.",
        edit={f"{NORM}{RELU}": f"{RELU}{NORM}"},
    ),
    wrong(
        "no_relu_on_the_features", "shapes", "gradients",
        says="The trunk's last layer is linear. Without a ReLU after it, it and each head are one linear layer.",
        edit={f"hidden),\n{RELU}        )": "hidden),\n        )"},
    ),
    # the loss
    wrong(
        "where_after_the_subtraction", "gradients",
        says="torch.where after the square hides the NaN from the loss, not from its gradient. Replace it before you subtract.",
        edit={SQUARED_ERROR: "        squared_error = torch.where(measured, (predicted - expression).pow(2), 0).sum()\n"},
    ),
    wrong(
        "nan_times_zero", "shapes", "gradients",
        says="You multiply by a mask, but NaN times 0 is NaN. Leave missing rows out, or replace NaN before you subtract.",
        edit={SQUARED_ERROR: "        squared_error = ((predicted - expression).square() * measured).sum()\n"},
    ),
    wrong(
        "missing_is_zero", "shapes", "gradients", "convergence",
        says="You count a missing label as 0. That teaches the net that those sequences drive nothing, in the first tissue.",
        edit={
            "measured, annotated = ~expression.isnan(), tissue != MISSING_TISSUE":
                "expression, tissue = expression.nan_to_num(0.0), torch.where(tissue == MISSING_TISSUE, 0, tissue)\n"
                "        measured, annotated = ~expression.isnan(), tissue != MISSING_TISSUE",
        },
    ),
    wrong(
        "mean_over_all_rows", "shapes", "gradients",
        says="You divide by the size of the batch. A mean over the observed labels divides by their number, task by task.",
        edit={
            MSE: "        mse = squared_error / len(expression)\n",
            CE: "        ce = cross_entropy / len(tissue)\n",
        },
    ),
    wrong(
        "complete_cases_only", "shapes", "gradients",
        says="You use only the rows that have both labels. A row with one label still teaches one task.",
        edit={
            "measured, annotated = ~expression.isnan(), tissue != MISSING_TISSUE":
                "measured = annotated = ~expression.isnan() & (tissue != MISSING_TISSUE)",
        },
    ),
    wrong(
        "mean_of_an_absent_task", "shapes", "gradients",
        says="The mean over no label is NaN, also that of F.cross_entropy. A task without labels must drop out.",
        edit={
            SQUARED_ERROR: "        mse = F.mse_loss(predicted[measured], expression[measured])\n",
            CROSS_ENTROPY: "        ce = F.cross_entropy(logits, tissue, ignore_index=MISSING_TISSUE)\n",
            MSE: "",
            CE: "",
            RETURN: "        return terms.sum()\n",
        },
    ),
    wrong(
        "mean_of_an_absent_task_masked_later", "gradients",
        says="You mask the NaN of a task without labels after it was computed: its gradient is still NaN. Sum, then divide.",
        edit={
            CROSS_ENTROPY: "        ce = F.cross_entropy(logits, tissue, ignore_index=MISSING_TISSUE)\n",
            CE: "",
            RETURN: "        return torch.where(present, terms, 0.0).sum()\n",
        },
    ),
    wrong(
        "absent_task_still_pays", "shapes", "gradients",
        says="You add 1/2 s of a task that has no label in the batch; it must drop out entirely.",
        edit={RETURN: "        return terms.sum()\n"},
    ),
    wrong(
        "absent_labels_without_graph", "gradients",
        says="Without any label you return a fresh zero. It has no graph, so backward() raises: attach it to the outputs.",
        edit={RETURN: "        return terms[present].sum() if present.any() else torch.zeros(())\n"},
    ),
    wrong(
        "weight_is_the_variance", "shapes", "gradients",
        says="Your weight is exp(+s): the noisier the task, the larger its weight. It is exp(-s).",
        edit={TERMS: TERMS.replace("torch.exp(-self", "torch.exp(self")},
    ),
    wrong(
        "s_is_log_of_the_standard_deviation", "shapes", "gradients",
        says="You treat s as the logarithm of a standard deviation (weight exp(-2s), price s). It is that of a variance.",
        edit={TERMS: TERMS.replace("torch.exp(-self", "torch.exp(-2 * self").replace(" / 2\n", "\n")},
    ),
    wrong(
        "variance_instead_of_its_logarithm", "shapes", "gradients",
        says="Your parameter is the variance itself, which the optimizer may make negative. Learn its logarithm, from zero.",
        edit={
            "self.log_variance = nn.Parameter(torch.zeros(2))": "self.variance = nn.Parameter(torch.ones(2))",
            TERMS: "        terms = torch.stack([mse / 2, ce]) / self.variance + self.variance.log() / 2\n",
        },
    ),
    wrong(
        "weights_left_out", "shapes", "gradients", "convergence",
        says="Your loss is the plain sum of the two tasks: log_variance takes no part in it.",
        edit={TERMS: "        terms = torch.stack([mse / 2, ce]) + 0 * self.log_variance\n"},
    ),
    wrong(
        "price_left_out", "shapes", "gradients",
        says="Without 1/2 s, calling every task infinitely noisy costs nothing: the weights shrink towards 0.",
        edit={TERMS: TERMS.replace(" + self.log_variance / 2", "")},
    ),
    wrong(
        "mse_without_its_half", "shapes", "gradients",
        says="You left out the factor 1/2 of the squared error: it comes from the normal distribution.",
        edit={TERMS: TERMS.replace("mse / 2", "mse")},
    ),
    wrong(
        "half_of_the_cross_entropy", "shapes", "gradients",
        says="You halve the cross-entropy as well. Only the squared error has the factor 1/2.",
        edit={TERMS: TERMS.replace("ce]", "ce / 2]")},
    ),
    wrong(
        "log_variances_swapped", "shapes", "gradients",
        says="You give the expression s[1] and the tissue s[0]: log_variance holds the expression first.",
        edit={TERMS: TERMS.replace("exp(-self.log_variance)", "exp(-self.log_variance.flip(0))")},
    ),
    wrong(
        "weights_detached", "gradients",
        says="You detach log_variance in the weight: it sees only the price 1/2 s, and falls for ever.",
        edit={TERMS: TERMS.replace("exp(-self.log_variance)", "exp(-self.log_variance.detach())")},
    ),
    wrong(
        "targets_overwritten", "shapes",
        says="Your loss writes into the targets it was given: after one epoch the missing labels are not missing any more.",
        edit={
            SQUARED_ERROR: "        expression[~measured] = 0\n"
                '        squared_error = F.mse_loss(predicted * measured, expression, reduction="sum")\n',
        },
    ),
    wrong(
        "no_validation", "shapes",
        says="Sizes below 1, inputs of the wrong shape or unknown tissues are accepted; the contract asks for a ValueError.",
        edit={
            "            if size < 1:": "            if False:",
            "if x.ndim != 3 or x.shape[1] != 4:": "if False:",
            "if predicted.ndim != 1 or logits.shape[:-1] != predicted.shape:": "if False:",
            "if not expression.shape == tissue.shape == predicted.shape:": "if False:",
            "if ((labels < 0) | (labels >= logits.shape[1])).any():": "if False:",
        },
    ),
    wrong(
        "tissue_out_of_range", "shapes",
        says="A tissue that does not exist raises an IndexError inside of torch; the contract asks for a ValueError.",
        edit={"if ((labels < 0) | (labels >= logits.shape[1])).any():": "if False:"},
    ),
    # the training
    wrong(
        "log_variance_not_trained", "convergence",
        says="Your optimizer does not hold the parameters of the loss, so log_variance stays at zero.",
        edit={PARAMETERS: "net.parameters()"},
    ),
    wrong(
        "expression_only", "convergence",
        says="You train with the expression labels only.",
        edit={"loss_fn(net(x[rows]), expression[rows], tissue[rows])":
              "loss_fn(net(x[rows]), expression[rows], torch.full_like(tissue[rows], MISSING_TISSUE))"},
    ),
    wrong(
        "missing_is_zero_in_training", "convergence",
        says="You fill in the missing labels before training: the net learns that most enhancers drive nothing.",
        edit={"    x, expression, tissue = train\n":
              "    x, expression, tissue = train\n    expression, tissue = expression.nan_to_num(0.0), tissue.clamp(min=0)\n"},
    ),
    wrong(
        "sequences_and_labels_shuffled_apart", "convergence",
        says="Sequences and labels are shuffled separately: every sequence gets another one's labels.",
        edit={"loss_fn(net(x[rows])": "loss_fn(net(x[torch.randperm(len(x))[: len(rows)]])"},
    ),
    wrong(
        "seeds_the_global_stream", "shapes",
        says="You seed torch's global random stream, and leave it there. Draw inside of `with seeded(generator):`.",
        edit={"    with seeded(generator):\n": "    torch.manual_seed(0)\n    if True:\n"},
    ),
    wrong(
        "ignores_the_generator", "shapes",
        says="The same generator gives different results: something draws from the global random stream.",
        edit={"    with seeded(generator):\n": "    with torch.random.fork_rng(devices=[]):\n"},
    ),
    wrong(
        "no_history", "shapes",
        says="The history is empty: append the epoch's mean loss and the learning rate after every epoch.",
        edit={"            history.train_loss.append(sum(losses) / len(losses))\n": "            pass\n"},
    ),
    # the speed
    wrong(
        "loss_loops_over_rows", "throughput",
        says="Your loss loops over the rows of the batch; a mask selects all observed labels at once.",
        edit={
            SQUARED_ERROR:
                "        squared_error = sum(\n"
                "            ((p - y) ** 2 for p, y in zip(predicted, expression) if not y.isnan()), 0 * predicted.sum()\n"
                "        )\n",
            CROSS_ENTROPY:
                "        cross_entropy = sum(\n"
                "            (z.logsumexp(0) - z[k] for z, k in zip(logits, tissue) if k != MISSING_TISSUE), 0 * logits.sum()\n"
                "        )\n",
        },
    ),
    wrong(
        "net_loops_over_sequences", "throughput",
        says="Your net reads one sequence after the other; a layer takes the whole batch at once.",
        edit={"        features = self.trunk(x)\n":
              "        features = torch.cat([self.trunk(one[None]) for one in x]) if not self.training else self.trunk(x)\n"},
    ),
]  # fmt: skip

RIGHT = [
    right(
        "heads_in_a_dictionary",
        define='''
class Trunk(nn.Module):
    """Named layers instead of a Sequential."""

    def __init__(self, channels, width, hidden):
        super().__init__()
        self.conv = nn.Conv1d(4, channels, kernel_size=width, padding="same", bias=True)
        self.norm = nn.BatchNorm1d(num_features=channels)
        self.linear = nn.Linear(channels * 2, hidden)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = F.adaptive_max_pool1d(x, output_size=2)
        return self.relu(self.linear(torch.flatten(x, start_dim=1)))


class MultiTaskNet(nn.Module):
    def __init__(self, channels=16, width=9, hidden=32, tissues=3):
        super().__init__()
        if min(channels, width, hidden, tissues) < 1:
            raise ValueError(f"sizes must be positive, got channels={channels}, {width=}, {hidden=}, {tissues=}")
        self.heads = nn.ModuleDict({"tissue": nn.Linear(hidden, tissues), "expression": nn.Linear(hidden, 1)})
        self.trunk = Trunk(channels, width, hidden)

    @property
    def expression_head(self):
        return self.heads["expression"]

    @property
    def tissue_head(self):
        return self.heads["tissue"]

    def forward(self, x):
        if x.dim() != 3 or x.size(1) != 4:
            raise ValueError(f"x: expected (batch, 4, length), got {tuple(x.shape)}")
        h = self.trunk(x)
        return self.heads["expression"](h)[:, 0], self.heads["tissue"](h)


class UncertaintyWeightedLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(2))

    def forward(self, outputs, expression, tissue):
        prediction, logits = outputs
        batch = prediction.shape[0]
        if prediction.shape != (batch,) or logits.dim() != 2 or len(logits) != batch:
            raise ValueError(f"outputs: got shapes {tuple(prediction.shape)} and {tuple(logits.shape)}")
        if expression.shape != (batch,):
            raise ValueError(f"expression: expected ({batch},), got {tuple(expression.shape)}")
        if tissue.shape != (batch,):
            raise ValueError(f"tissue: expected ({batch},), got {tuple(tissue.shape)}")
        observed = ~torch.isnan(expression)
        known = tissue.ne(-100)
        if bool((known & ((tissue < 0) | (tissue >= logits.size(1)))).any()):
            raise ValueError(f"tissue: expected -100 or 0..{logits.size(1) - 1}")

        filled = torch.where(observed, expression, torch.zeros_like(expression))
        squares = torch.where(observed, (prediction - filled) ** 2, torch.zeros_like(prediction))
        mse = squares.sum() / observed.sum().clamp(min=1)
        nll = F.cross_entropy(logits, tissue, ignore_index=-100, reduction="sum")
        ce = nll / known.sum().clamp(min=1)

        s0, s1 = self.log_variance
        zero = torch.zeros((), dtype=prediction.dtype)
        first = torch.where(observed.any(), 0.5 * torch.exp(-s0) * mse + 0.5 * s0, zero)
        second = torch.where(known.any(), torch.exp(-s1) * ce + 0.5 * s1, zero)
        return first + second


def fit_multitask(train, *, epochs=11, batch_size=64, generator=None):
    if epochs <= 0:
        raise ValueError(f"epochs must be positive, got {epochs}")
    if batch_size <= 0:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    if len({len(part) for part in train}) != 1:
        raise ValueError(f"train: different lengths {[len(part) for part in train]}")
    with seeded(generator):
        model = MultiTaskNet()
        criterion = UncertaintyWeightedLoss()
        dataset = torch.utils.data.TensorDataset(*train)
        loader = torch.utils.data.DataLoader(dataset, batch_size=batch_size, shuffle=True)
        optimizer = torch.optim.AdamW(
            [{"params": model.parameters()}, {"params": criterion.parameters(), "weight_decay": 0.0}], lr=1e-2
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=1e-2, epochs=epochs, steps_per_epoch=len(loader)
        )
        history = History()
        for epoch in range(epochs):
            model.train()
            running = 0.0
            for sequences, level, label in loader:
                optimizer.zero_grad()
                value = criterion(model(sequences), level, label)
                value.backward()
                optimizer.step()
                scheduler.step()
                running += float(value) * len(sequences)
            history.train_loss.append(running / len(dataset))
            history.lr.append(scheduler.get_last_lr()[0])
            history.best_epoch = epoch
    model.eval()
    return model, criterion, history
''',
    ),
    right(
        "any_guard_and_the_given_loop",
        define="""
def fit_multitask(train, *, epochs=11, batch_size=64, generator=None):
    from fixtures.training import fit

    x, expression, tissue = train
    if not (len(x) == len(expression) == len(tissue)):
        raise ValueError(f"train: {len(x)}, {len(expression)} and {len(tissue)} rows")
    with seeded(generator):
        net, loss_fn = MultiTaskNet(), UncertaintyWeightedLoss()
        both = torch.stack([expression, tissue.to(expression.dtype)], dim=1)  # -100 and small numbers are exact
        history = History()
        for part, rate in ((epochs - epochs // 3, 5e-3), (epochs // 3, 5e-4)):
            if part or epochs < 1:
                optimizer = torch.optim.AdamW(list(net.parameters()) + list(loss_fn.parameters()), lr=rate)
                stage = fit(
                    net, (x, both), optimizer=optimizer, epochs=part, batch_size=batch_size,
                    loss_fn=lambda outputs, y: loss_fn(outputs, y[:, 0], y[:, 1].long()),
                )
                history.train_loss += stage.train_loss
                history.lr += stage.lr
    return net, loss_fn, history


class UncertaintyWeightedLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_parameter("log_variance", nn.Parameter(torch.tensor([0.0, 0.0])))

    def forward(self, outputs, expression, tissue):
        y, z = outputs
        if y.ndim != 1 or y.shape != expression.shape or y.shape != tissue.shape or z.shape[:-1] != y.shape:
            raise ValueError(f"shapes differ: {y.shape}, {z.shape}, {expression.shape}, {tissue.shape}")
        a, b = expression == expression, tissue >= 0
        if (tissue[~b] != -100).any() or (tissue >= z.shape[1]).any():
            raise ValueError(f"tissue out of range: {tissue.tolist()}")
        s = self.log_variance
        loss = 0 * (y.sum() + z.sum())
        if a.any():
            loss = loss + 0.5 * torch.exp(-s[0]) * F.mse_loss(y[a], expression[a]) + 0.5 * s[0]
        if b.any():
            loss = loss + torch.exp(-s[1]) * F.cross_entropy(z[b], tissue[b]) + 0.5 * s[1]
        return loss
""",
    ),
    right(
        "by_hand",
        define="""
def check(condition, words):
    if not condition:
        raise ValueError(words)


class MultiTaskNet(nn.Module):
    def __init__(self, channels=16, width=9, hidden=32, tissues=3):
        super().__init__()
        check(channels >= 1 and width >= 1 and hidden >= 1 and tissues >= 1, "a size is smaller than 1")
        relu = nn.ReLU()
        self.expression_head = nn.Linear(hidden, 1)
        self.tissue_head = nn.Linear(hidden, tissues)
        self.trunk = nn.Sequential(
            nn.Conv1d(4, channels, width, padding=width // 2), nn.BatchNorm1d(channels), relu,
            nn.AdaptiveMaxPool1d(2), nn.Flatten(), nn.Linear(2 * channels, hidden), relu,
        )
        nn.init.kaiming_normal_(self.trunk[0].weight)
        nn.init.zeros_(self.expression_head.weight)

    def forward(self, x):
        check(x.ndim == 3 and x.shape[1] == 4, f"x is {tuple(x.shape)}, not (batch, 4, length)")
        for layer in self.trunk:
            x = layer(x)
        return torch.flatten(self.expression_head(x)), self.tissue_head(x)


class UncertaintyWeightedLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(2))

    def forward(self, outputs, expression, tissue):
        n, k = outputs[1].shape
        check(outputs[0].shape == (n,), f"expression predicted as {tuple(outputs[0].shape)}, expected ({n},)")
        check(expression.shape == (n,) and tissue.shape == (n,), f"targets must be ({n},)")
        check(all(label in (-100, *range(k)) for label in tissue.unique().tolist()), f"tissue must be -100 or 0..{k - 1}")
        masks = torch.stack([~expression.isnan(), tissue != -100]).to(outputs[0].dtype)
        counts = masks.sum(1)
        squares = (outputs[0] - expression.nan_to_num()) ** 2 / 2
        surprise = -outputs[1].log_softmax(1).gather(1, tissue.clamp(min=0)[:, None])[:, 0]
        means = (torch.stack([squares, surprise]) * masks).sum(1) / counts.clamp(min=1)
        present = (counts > 0).to(means.dtype)
        return (present * (means / self.log_variance.exp() + self.log_variance / 2)).sum()


def fit_multitask(train, *, epochs=11, batch_size=64, generator=None):
    x, expression, tissue = train
    check(epochs >= 1, f"epochs is {epochs}")
    check(batch_size >= 1, f"batch_size is {batch_size}")
    check(len(x) == len(expression) and len(x) == len(tissue), "train has parts of different lengths")
    history = History()
    with seeded(generator):
        both = nn.ModuleList([MultiTaskNet(), UncertaintyWeightedLoss()])
        net, loss_fn = both
        optimizer = torch.optim.Adam(both.parameters(), lr=3e-3)
        for epoch in range(epochs):
            order = torch.randperm(len(x))
            total, steps = 0.0, 0
            for start in range(0, len(x), batch_size):
                rows = order[start : start + batch_size]
                both.zero_grad()
                loss = loss_fn(net(x[rows]), expression[rows], tissue[rows])
                loss.backward()
                optimizer.step()
                total, steps = total + loss.item(), steps + 1
            history.train_loss.append(total / steps)
            history.lr.append(3e-3)
    history.best_epoch = epochs - 1
    return net, loss_fn, history
""",
    ),
]
