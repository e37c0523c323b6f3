"""Answers to 3.3 with a known verdict."""

from grader.controls import right, wrong

WEIGHT = "self.weight = nn.Parameter(std * torch.randn(out_features, in_features, generator=generator))"
BIAS = "self.bias = nn.Parameter(torch.zeros(out_features))"
STD = "std = gain / math.sqrt(in_features)"
AFFINE = "return x @ self.weight.mT + self.bias"
BUFFER = 'self.register_buffer("background", torch.full((4, 1), 0.25))'
LAYERS = "self.layers = nn.Sequential(*layers, Dense(width, 1, generator=generator))"
HIDDEN = "Dense(width, hidden, gain=gain, generator=generator), ACTIVATIONS[activation]()"
KNOWN = "known = x.sum(dim=1, keepdim=True)"
EVIDENCE = "evidence = x - self.background * known"
LOGITS = "return self.layers(evidence.flatten(1)).squeeze(1)"

WRONG = [
    wrong(
        "plain_tensors", "shapes", "gradients", "convergence",
        says="Your weight and bias are plain tensors: parameters() does not list them. Wrap them in nn.Parameter.",
        edit={
            WEIGHT: "self.weight = (std * torch.randn(out_features, in_features, generator=generator)).requires_grad_()",
            BIAS: "self.bias = torch.zeros(out_features, requires_grad=True)",
        },
    ),
    wrong(
        "plain_list_of_layers", "shapes", "gradients", "convergence",
        says="Layers in a plain Python list are not registered: parameters() does not see them. Use nn.ModuleList.",
        edit={
            LAYERS: "self.layers = [*layers, Dense(width, 1, generator=generator)]",
            LOGITS:
                "x = evidence.flatten(1)\n        for layer in self.layers:\n            x = layer(x)\n"
                "        return x.squeeze(1)",
        },
    ),
    wrong(
        "divided_by_fan_in", "gradients", "convergence",
        says="Your weights have std gain / in_features. A sum of n products has n times the variance, so divide by sqrt(n).",
        edit={STD: "std = gain / in_features"},
    ),
    wrong(
        "fan_out", "gradients",
        says="You scale by out_features. An output is a sum over the *inputs*: divide by sqrt(in_features).",
        edit={STD: "std = gain / math.sqrt(out_features)"},
    ),
    wrong(
        "xavier", "gradients",
        says="You average fan-in and fan-out (Glorot's rule). The contract asks for gain / sqrt(in_features).",
        edit={STD: "std = gain * math.sqrt(2 / (in_features + out_features))"},
    ),
    wrong(
        "default_of_nn_linear", "gradients", "convergence",
        says="Your weights are those of nn.Linear: uniform within 1/sqrt(in_features), whose std is smaller by sqrt(3).",
        edit={
            WEIGHT:
                "b = 1 / math.sqrt(in_features)\n"
                "        self.weight = nn.Parameter(torch.empty(out_features, in_features))\n"
                "        nn.init.uniform_(self.weight, -b, b, generator=generator)",
            BIAS: "self.bias = nn.Parameter(torch.empty(out_features).uniform_(-b, b, generator=generator))",
        },
    ),
    wrong(
        "uniform_within_std", "gradients",
        says="A uniform distribution on (-b, b) has std b / sqrt(3): choose b = sqrt(3) * gain / sqrt(in_features).",
        edit={WEIGHT:
            "self.weight = nn.Parameter(torch.empty(out_features, in_features))\n"
            "        nn.init.uniform_(self.weight, -std, std, generator=generator)"},
    ),
    wrong(
        "small_constant_std", "gradients", "convergence",
        says="Your weights have std 0.01 whatever the size of the layer: eight layers leave nothing of the signal.",
        edit={STD: "std = 0.01 * gain"},
    ),
    wrong(
        "std_one", "gradients", "convergence",
        says="Your weights are not scaled down: the signal grows by sqrt(in_features) in every layer.",
        edit={STD: "std = gain"},
    ),
    wrong(
        "all_zeros", "gradients", "convergence",
        says="All your weights are zero: no signal goes forward, so no gradient comes back.",
        edit={WEIGHT: "self.weight = nn.Parameter(torch.zeros(out_features, in_features))"},
    ),
    wrong(
        "rows_alike", "gradients",
        says="All outputs of a layer start with the same weights, get the same gradient and stay the same for ever.",
        edit={WEIGHT:
            "row = std * torch.randn(1, in_features, generator=generator)\n"
            "        self.weight = nn.Parameter(row.repeat(out_features, 1))"},
    ),
    wrong(
        "random_bias", "gradients",
        says="Your bias starts at random numbers; it must start at zero.",
        edit={BIAS: "self.bias = nn.Parameter(std * torch.randn(out_features, generator=generator))"},
    ),
    wrong(
        "gain_ignored", "gradients",
        says="The gain has no effect on your weights: multiply by it in Dense, and pass it on in DonorNet.",
        edit={STD: "std = 1 / math.sqrt(in_features)"},
    ),
    wrong(
        "gain_of_relu_for_all", "gradients",
        says="Your hidden layers have the gain of ReLU whatever the activation: use nn.init.calculate_gain(activation).",
        edit={"gain = nn.init.calculate_gain(activation)": "gain = math.sqrt(2)"},
    ),
    wrong(
        "gain_not_passed_on", "gradients",
        says="DonorNet builds its hidden layers with gain 1: each ReLU then halves the signal's second moment.",
        edit={HIDDEN: "Dense(width, hidden, generator=generator), ACTIVATIONS[activation]()"},
    ),
    wrong(
        "gain_in_the_last_layer", "gradients",
        says="No activation follows the last layer, so its gain is 1.",
        edit={LAYERS: "self.layers = nn.Sequential(*layers, Dense(width, 1, gain=gain, generator=generator))"},
    ),
    wrong(
        "weight_in_out", "shapes",
        says="Your weight is stored as (in_features, out_features); torch's convention is (out_features, in_features).",
        edit={
            WEIGHT: "self.weight = nn.Parameter(std * torch.randn(in_features, out_features, generator=generator))",
            AFFINE: "return x @ self.weight + self.bias",
        },
    ),
    wrong(
        "linear_inside", "shapes",
        says="Your Dense wraps an nn.Linear; the exercise is to write that layer.",
        define='''
class Dense(nn.Module):
    def __init__(self, in_features, out_features, *, gain=1.0, generator=None):
        super().__init__()
        if in_features < 1 or out_features < 1 or gain <= 0:
            raise ValueError(f"bad size or gain: {in_features}, {out_features}, {gain}")
        self.linear = nn.Linear(in_features, out_features)
        nn.init.normal_(self.linear.weight, std=gain / math.sqrt(in_features), generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x):
        if x.shape[-1] != self.linear.in_features:
            raise ValueError(f"x must have {self.linear.in_features} features, got {tuple(x.shape)}")
        return self.linear(x)

    def extra_repr(self):
        return f"in_features={self.linear.in_features}, out_features={self.linear.out_features}"
''',
    ),
    wrong(
        "subclass_of_linear", "shapes",
        says="Your Dense inherits from nn.Linear; the exercise is to write that layer.",
        define='''
class Dense(nn.Linear):
    def __init__(self, in_features, out_features, *, gain=1.0, generator=None):
        if in_features < 1 or out_features < 1 or gain <= 0:
            raise ValueError(f"bad size or gain: {in_features}, {out_features}, {gain}")
        super().__init__(in_features, out_features)
        nn.init.normal_(self.weight, std=gain / math.sqrt(in_features), generator=generator)
        nn.init.zeros_(self.bias)

    def forward(self, x):
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x must have {self.in_features} features, got {tuple(x.shape)}")
        return super().forward(x)

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}"
''',
    ),
    wrong(
        "matrices_only", "shapes",
        says="Your Dense works for 2-D input only; `@` and F.linear take any number of leading axes.",
        edit={AFFINE: "return torch.addmm(self.bias, x, self.weight.mT)"},
    ),
    wrong(
        "no_extra_repr", "shapes",
        says="print(layer) does not show the sizes: return them from extra_repr.",
        edit={'return f"in_features={self.in_features}, out_features={self.out_features}"': 'return ""'},
    ),
    wrong(
        "background_is_a_parameter", "shapes", "gradients",
        says="Your background is a parameter: the optimizer would change it. Use register_buffer.",
        edit={BUFFER: "self.background = nn.Parameter(torch.full((4, 1), 0.25))"},
    ),
    wrong(
        "background_is_a_plain_attribute", "shapes",
        says="Your background is a plain attribute: it is neither saved nor moved with the network. Use register_buffer.",
        edit={BUFFER: "self.background = torch.full((4, 1), 0.25)"},
    ),
    wrong(
        "background_not_saved", "shapes",
        says="Your buffer is not persistent: it is missing from state_dict().",
        edit={BUFFER: 'self.register_buffer("background", torch.full((4, 1), 0.25), persistent=False)'},
    ),
    wrong(
        "background_written_as_a_number", "shapes",
        says="forward subtracts 0.25 instead of self.background, so another background changes nothing.",
        edit={EVIDENCE: "evidence = x - 0.25 * known"},
    ),
    wrong(
        "background_never_subtracted", "shapes", "gradients",
        says="The background is never subtracted.",
        edit={EVIDENCE: "evidence = x"},
    ),
    wrong(
        "background_from_unknown_bases", "shapes",
        says="You subtract the background from N columns too, so that an unknown base counts as evidence.",
        edit={EVIDENCE: "evidence = x - self.background"},
    ),
    wrong(
        "input_changed_in_place", "shapes",
        says="forward changes its input: `-=` writes into the caller's tensor.",
        edit={EVIDENCE: "evidence = x.sub_(self.background * known)"},
    ),
    wrong(
        "relu_after_the_last_layer", "shapes", "gradients",
        says="You apply the activation after the last layer too: a logit must be able to take any value.",
        edit={LAYERS: "self.layers = nn.Sequential(*layers, Dense(width, 1, generator=generator), ACTIVATIONS[activation]())"},
    ),
    wrong(
        "sigmoid_in_forward", "shapes", "gradients",
        says="Your forward returns probabilities. Return the logits: the loss applies the sigmoid.",
        edit={LOGITS: "return self.layers(evidence.flatten(1)).squeeze(1).sigmoid()"},
    ),
    wrong(
        "no_activation", "shapes", "gradients", "convergence",
        says="There is nothing between your layers, so eight of them are one linear layer: a PWM, which is at chance here.",
        edit={HIDDEN: "Dense(width, hidden, gain=gain, generator=generator)"},
    ),
    wrong(
        "always_relu", "shapes",
        says="Your network uses ReLU whatever the argument activation says.",
        edit={HIDDEN: "Dense(width, hidden, gain=gain, generator=generator), nn.ReLU()"},
    ),
    wrong(
        "one_layer_too_many", "shapes", "gradients",
        says="Your network has depth hidden layers and one more; depth counts all Dense layers, the last one too.",
        edit={"for _ in range(depth - 1):": "for _ in range(depth):"},
    ),
    wrong(
        "hidden_layer_shared", "shapes", "gradients",
        says="One Dense object serves as every hidden layer: they share their weights. Make a new object for each layer.",
        edit={
            "width = 4 * length\n":
                "width = 4 * length\n        shared = Dense(hidden, hidden, gain=gain, generator=generator)\n",
            HIDDEN:
                "Dense(width, hidden, gain=gain, generator=generator) if width != hidden else shared, "
                "ACTIVATIONS[activation]()",
        },
    ),
    wrong(
        "position_major", "shapes", "gradients",
        says="You flatten position by position; the contract says x.flatten(1), base by base.",
        edit={LOGITS: "return self.layers(evidence.mT.flatten(1)).squeeze(1)"},
    ),
    wrong(
        "column_of_logits", "shapes", "gradients", "convergence",
        says="Your logits have shape (batch, 1): against (batch,) labels they would broadcast. Squeeze dimension 1.",
        edit={LOGITS: "return self.layers(evidence.flatten(1))"},
    ),
    wrong(
        "squeezed_batch_of_one", "shapes",
        says="squeeze() without a dimension also drops a batch of one: write squeeze(1).",
        edit={LOGITS: "return self.layers(evidence.flatten(1)).squeeze()"},
    ),
    wrong(
        "view_of_a_strided_input", "shapes",
        says="view() refuses an input that is not contiguous; flatten(1) or reshape copies when it must.",
        edit={LOGITS: "return self.layers(evidence.view(len(x), 4 * self.length)).squeeze(1)"},
    ),
    wrong(
        "seeds_the_global_stream", "shapes",
        says="torch.manual_seed in __init__ resets the random numbers of the whole program, and makes all layers alike.",
        edit={STD: "torch.manual_seed(0)\n        std = gain / math.sqrt(in_features)"},
    ),
    wrong(
        "generator_ignored", "shapes",
        says="The weights do not come from the generator: the same generator state gives other weights.",
        edit={WEIGHT: "self.weight = nn.Parameter(std * torch.randn(out_features, in_features))"},
    ),
    wrong(
        "same_random_numbers_for_every_layer", "shapes",
        says="Each layer starts the generator anew, so that hidden layers begin with identical weights.",
        edit={
            WEIGHT:
                "own = torch.Generator()\n"
                "        own.set_state(generator.get_state() if generator else torch.get_rng_state())\n"
                "        self.weight = nn.Parameter(std * torch.randn(out_features, in_features, generator=own))",
        },
    ),
    wrong(
        "own_generator_without_one", "shapes",
        says="Without a generator the weights must come from torch's global stream, so that torch.manual_seed reproduces them.",
        edit={STD: "generator = generator or torch.Generator().manual_seed(0)\n        std = gain / math.sqrt(in_features)"},
    ),
    wrong(
        "weight_detached_in_forward", "gradients", "convergence",
        says="forward uses weight.data or detach(): the weights get no gradient.",
        edit={AFFINE: "return x @ self.weight.data.mT + self.bias"},
    ),
    wrong(
        "input_detached_in_forward", "gradients", "convergence",
        says="forward detaches its input: no gradient reaches the layers below.",
        edit={AFFINE: "return x.detach() @ self.weight.mT + self.bias"},
    ),
    wrong(
        "no_validation_in_dense", "shapes",
        says="Dense accepts sizes below 1, a gain that is not positive, or an input of the wrong size; each is a ValueError.",
        edit={"if size < 1:": "if False:", "if gain <= 0:": "if False:"},
    ),
    wrong(
        "no_validation_of_the_input", "shapes",
        says="Dense leaves the check of its input to torch, whose RuntimeError does not name the argument; raise a ValueError.",
        edit={"if x.shape[-1:] != (self.in_features,):": "if False:"},
    ),
    wrong(
        "loop_over_outputs", "throughput",
        says="You loop over the outputs; one matrix product does them all.",
        edit={AFFINE: "return torch.stack([(x * w).sum(-1) + b for w, b in zip(self.weight, self.bias)], dim=-1)"},
    ),
    wrong(
        "broadcast_and_sum", "throughput",
        says="x[..., None, :] * weight makes a tensor of rows x outputs x inputs before it sums; a matrix product does not.",
        edit={AFFINE: "return (x[..., None, :] * self.weight).sum(-1) + self.bias"},
    ),
    wrong(
        "loop_over_rows", "throughput",
        says="You loop over the rows of the batch; one matrix product does them all.",
        edit={AFFINE: (
            "rows = [self.weight @ row + self.bias for row in x.reshape(-1, x.shape[-1])]\n"
            "        return torch.stack(rows).reshape(*x.shape[:-1], -1) if rows else x @ self.weight.mT + self.bias"
        )},
    ),
]  # fmt: skip

RIGHT = [
    right(
        "uniform_and_module_list",
        define='''
class Dense(nn.Module):
    def __init__(self, in_features, out_features, *, gain=1.0, generator=None):
        super().__init__()
        if in_features < 1:
            raise ValueError(f"in_features: expected at least 1, got {in_features}")
        if out_features < 1:
            raise ValueError(f"out_features: expected at least 1, got {out_features}")
        if not gain > 0:
            raise ValueError(f"gain: expected a positive number, got {gain}")
        self.in_features, self.out_features, self.gain = in_features, out_features, gain
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters(generator)

    def reset_parameters(self, generator=None):
        bound = self.gain * (3 / self.in_features) ** 0.5
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)
        nn.init.zeros_(self.bias)

    def forward(self, x):
        if x.ndim == 0 or x.size(-1) != self.in_features:
            raise ValueError(f"x: expected {self.in_features} features, got shape {tuple(x.shape)}")
        return nn.functional.linear(x, self.weight, self.bias)

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, gain={self.gain:.3g}"


class DonorNet(nn.Module):
    def __init__(self, length=9, hidden=64, depth=8, *, activation="relu", generator=None):
        super().__init__()
        if length < 1 or hidden < 1 or depth < 2:
            raise ValueError(f"length and hidden must be >= 1, depth >= 2, got {length}, {hidden}, {depth}")
        if activation not in ("relu", "tanh", "sigmoid"):
            raise ValueError(f"activation must be relu, tanh or sigmoid, got {activation}")
        self.length = length
        sizes = [4 * length] + [hidden] * (depth - 1) + [1]
        gains = [nn.init.calculate_gain(activation)] * (depth - 1) + [1.0]
        self.layers = nn.ModuleList(
            Dense(n, m, gain=g, generator=generator) for n, m, g in zip(sizes, sizes[1:], gains)
        )
        self.activation = {"relu": nn.ReLU(), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid()}[activation]
        self.background = nn.Buffer(torch.full((4, 1), 0.25))

    def forward(self, x):
        if x.dim() != 3 or x.shape[1] != 4 or x.shape[2] != self.length:
            raise ValueError(f"x: expected (batch, 4, {self.length}), got {tuple(x.shape)}")
        x = torch.where((x != 0).any(1, keepdim=True), x - self.background, 0.0)
        x = x.reshape(x.shape[0], 4 * self.length)
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)[:, 0]
''',
    ),
    right(
        "einsum_and_add_module",
        define='''
class Dense(nn.Module):
    def __init__(self, in_features: int, out_features: int, *, gain: float = 1.0, generator=None):
        super().__init__()
        if min(in_features, out_features) < 1 or gain <= 0:
            raise ValueError(f"sizes must be >= 1 and gain > 0, got ({in_features}, {out_features}), gain {gain}")
        self.register_parameter("weight", nn.Parameter(torch.zeros(out_features, in_features)))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features)))
        with torch.no_grad():
            self.weight.normal_(0, gain * in_features**-0.5, generator=generator)

    def forward(self, x):
        if x.shape[-1] != self.weight.shape[1]:
            raise ValueError(f"expected {self.weight.shape[1]} features, got {x.shape[-1]}")
        return torch.einsum("...i,oi->...o", x, self.weight).add(self.bias)

    def extra_repr(self):
        return "in_features={1}, out_features={0}".format(*self.weight.shape)


class DonorNet(nn.Module):
    def __init__(self, length: int = 9, hidden: int = 64, depth: int = 8, *, activation: str = "relu", generator=None):
        super().__init__()
        if activation not in {"relu", "tanh", "sigmoid"}:
            raise ValueError(f"unknown activation {activation!r}: expected relu, tanh or sigmoid")
        if depth < 2:
            raise ValueError(f"depth must be >= 2, got {depth}")
        self.length, self.depth, self.function = length, depth, getattr(torch, activation)
        n = 4 * length
        for i in range(depth):
            last = i == depth - 1
            gain = 1 if last else nn.init.calculate_gain(activation)
            self.add_module(f"dense{i}", Dense(n, 1 if last else hidden, gain=gain, generator=generator))
            n = hidden
        self.register_buffer("background", torch.ones(4, 1) / 4)

    def forward(self, x):
        batch, channels, length = x.shape if x.ndim == 3 else (0, 0, 0)
        if (channels, length) != (4, self.length):
            raise ValueError(f"x must be (batch, 4, {self.length}), got {tuple(x.shape)}")
        mask = x.max(dim=1, keepdim=True).values > 0
        h = ((x - self.background) * mask).flatten(start_dim=1)
        for i in range(self.depth - 1):
            h = self.function(getattr(self, f"dense{i}")(h))
        return getattr(self, f"dense{self.depth - 1}")(h).squeeze(-1)
''',
    ),
    right(
        "seeded_global_stream",
        define='''
from fixtures.randomness import seeded


class Dense(nn.Module):
    def __init__(self, in_features, out_features, *, gain=1.0, generator=None):
        super().__init__()
        for size in (in_features, out_features):
            if size <= 0:
                raise ValueError(f"a size must be positive, got {size}")
        if gain <= 0:
            raise ValueError(f"gain must be positive, got {gain}")
        self.in_features, self.out_features = in_features, out_features
        with seeded(generator):
            weight = torch.zeros(out_features, in_features)
            nn.init.kaiming_normal_(weight, nonlinearity="linear")
        self.weight = nn.Parameter(weight * gain)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x):
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x has {x.shape[-1]} features, expected {self.in_features}")
        return torch.matmul(x, self.weight.t()) + self.bias

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}"
''',
        edit={
            KNOWN: "known = (x.sum(dim=1, keepdim=True) > 0).to(x.dtype)",
            LOGITS:
                "for layer in self.layers:\n            evidence = layer(evidence.flatten(1))\n"
                "        return evidence.reshape(len(x))",
        },
    ),
    right("tensordot", edit={AFFINE: "return torch.tensordot(x, self.weight, dims=([-1], [1])) + self.bias"}),
    right(
        "rows_addmm_and_back",
        edit={AFFINE:
            "flat = x.reshape(math.prod(x.shape[:-1]), self.in_features)\n"
            "        return torch.addmm(self.bias, flat, self.weight.t()).reshape(*x.shape[:-1], self.out_features)"},
    ),
    right(
        "background_folded_into_the_first_bias",
        edit={
            KNOWN: "known = (x > 0).any(dim=1)",
            EVIDENCE: "shift = (self.background * known.unsqueeze(1)).flatten(1)",
            LOGITS:
                "first, *others = self.layers\n"
                "        h = first(x.flatten(1)) - shift @ first.weight.mT\n"
                "        for layer in others:\n            h = layer(h)\n"
                "        return h.view(-1)",
        },
    ),
]  # fmt: skip
