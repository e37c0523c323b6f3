"""Answers to 3.1 with a known verdict."""

from grader.controls import right, wrong

FORWARD = "        return self.net(x)\n"
PROBABILITIES = "return model(x).softmax(dim=1)"

WRONG = [
    wrong(
        "softmax_in_forward", "shapes", "gradients", "convergence",
        says="Your forward returns probabilities. Return the logits: the loss and predict_proba apply the softmax.",
        edit={FORWARD: "        return self.net(x).softmax(dim=1)\n"},
    ),
    wrong(
        "log_softmax_in_forward", "shapes", "gradients",
        says="Your forward returns log-probabilities. They train, because softmax undoes it, but they are not the logits.",
        edit={FORWARD: "        return self.net(x).log_softmax(dim=1)\n"},
    ),
    wrong(
        "no_activation", "shapes", "gradients", "convergence",
        says="There is nothing between your linear layers, so the three of them are one linear layer.",
        edit={
            "nn.Linear(in_features, hidden),\n            nn.ReLU(),": "nn.Linear(in_features, hidden),",
            "nn.Linear(hidden, hidden),\n            nn.ReLU(),": "nn.Linear(hidden, hidden),",
        },
    ),
    wrong(
        "one_activation", "shapes", "gradients",
        says="Only the first hidden layer has a ReLU: the second and third are one linear layer.",
        edit={"nn.Linear(hidden, hidden),\n            nn.ReLU(),": "nn.Linear(hidden, hidden),"},
    ),
    wrong(
        "relu_after_the_last_layer", "shapes", "gradients",
        says="You apply a ReLU to the logits: they can no longer be negative.",
        edit={FORWARD: "        return self.net(x).relu()\n"},
    ),
    wrong(
        "plain_list_of_layers", "shapes", "gradients",
        says="Layers in a plain Python list are not registered: parameters() does not see them. Use nn.ModuleList.",
        edit={
            "self.net = nn.Sequential(": "self.layers = [",
            "            nn.Linear(hidden, classes),\n        )": "            nn.Linear(hidden, classes),\n        ]",
            FORWARD: "        for layer in self.layers:\n            x = layer(x)\n        return x\n",
        },
    ),
    wrong(
        "hidden_layer_shared", "shapes", "gradients",
        says="One Linear object is used for two layers: they share their weights. Make a new object for each layer.",
        edit={
            "self.net = nn.Sequential(\n            nn.Linear(in_features, hidden),":
                "shared = nn.Linear(hidden, hidden)\n        self.net = nn.Sequential(\n"
                "            nn.Linear(in_features, hidden),\n            nn.ReLU(),\n            shared,",
            "            nn.Linear(hidden, hidden),\n": "            shared,\n",
        },
    ),
    wrong(
        "softmax_over_the_batch", "shapes",
        says="Your softmax runs over the batch (dim=0): each column sums to 1 instead of each row.",
        edit={PROBABILITIES: "return model(x).softmax(dim=0)"},
    ),
    wrong(
        "stays_in_eval_mode", "shapes",
        says="After predict_proba the model is still in eval mode: dropout would be off for the rest of the training.",
        edit={"            module.training = mode\n": "            pass\n"},
    ),
    wrong(
        "wakes_frozen_parts", "shapes",
        says="model.train() at the end wakes every submodule, also those that were frozen in eval mode.",
        edit={"            module.training = mode\n": "            module.training = True\n"},
    ),
    wrong(
        "predicts_in_train_mode", "shapes",
        says="You predict in train mode: dropout is active, so two calls differ.",
        edit={"    model.eval()\n": ""},
    ),
    wrong(
        "probabilities_with_graph", "shapes",
        says="predict_proba builds a graph: every prediction keeps its activations in memory.",
        edit={"with torch.no_grad():": "with torch.enable_grad():"},
    ),
    wrong(
        "detached_between_layers", "gradients",
        says="You detach between the layers, so that no gradient reaches the first one.",
        edit={FORWARD: "        return self.net[2:](self.net[:2](x).detach())\n"},
    ),
    wrong(
        "loop_over_rows", "throughput",
        says="You loop over the rows of the batch; one matrix product does them all.",
        edit={FORWARD: "        return torch.stack([self.net(row) for row in x]) if len(x) else self.net(x)\n"},
    ),
    wrong(
        "no_validation", "shapes",
        says="Sizes below 1 and inputs of the wrong shape are accepted; the contract asks for a ValueError.",
        edit={"if size < 1:": "if False:", "if x.ndim != 2 or x.shape[1] != self.in_features:": "if False:"},
    ),
]  # fmt: skip

RIGHT = [
    right(
        "three_attributes",
        define="""
class BasicMLP(nn.Module):
    def __init__(self, in_features, hidden, classes):
        super().__init__()
        if min(in_features, hidden, classes) < 1:
            raise ValueError(f"sizes must be >= 1, got in_features={in_features}, hidden={hidden}, classes={classes}")
        self.fc1 = nn.Linear(in_features, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, classes)

    def forward(self, x):
        if x.dim() != 2 or x.size(1) != self.fc1.in_features:
            raise ValueError(f"x: expected (batch, {self.fc1.in_features}), got {tuple(x.shape)}")
        x = torch.nn.functional.relu(self.fc1(x))
        x = torch.nn.functional.relu(self.fc2(x))
        return self.fc3(x)
""",
    ),
    right(
        "module_list",
        define="""
class BasicMLP(nn.Module):
    def __init__(self, in_features, hidden, classes):
        super().__init__()
        sizes = [in_features, hidden, hidden, classes]
        if any(size < 1 for size in sizes):
            raise ValueError(f"all sizes must be positive, got {sizes}")
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, x):
        if x.ndim != 2 or x.shape[-1] != self.layers[0].in_features:
            raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, {self.layers[0].in_features})")
        *body, head = self.layers
        for layer in body:
            x = layer(x).clamp(min=0)
        return head(x)
""",
    ),
    right(
        "own_parameters",
        define="""
def predict_proba(model, x):
    modes = {name: module.training for name, module in model.named_modules()}
    try:
        model.eval()
        with torch.inference_mode():
            z = model(x)
            e = (z - z.amax(1, keepdim=True)).exp()
            return e / e.sum(1, keepdim=True)
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]


class BasicMLP(nn.Module):
    def __init__(self, in_features, hidden, classes):
        super().__init__()
        for size in (in_features, hidden, classes):
            if size <= 0:
                raise ValueError(f"size {size} is not positive")
        self.in_features = in_features
        for number, (n, m) in enumerate([(in_features, hidden), (hidden, hidden), (hidden, classes)]):
            self.register_parameter(f"W{number}", nn.Parameter(torch.randn(m, n) * (2 / n) ** 0.5))
            self.register_parameter(f"b{number}", nn.Parameter(torch.zeros(m)))

    def forward(self, x):
        if x.ndim != 2 or x.shape[1] != self.in_features:
            raise ValueError(f"x must have {self.in_features} columns, got {tuple(x.shape)}")
        h = torch.relu(x @ self.W0.mT + self.b0)
        h = torch.relu(h @ self.W1.mT + self.b1)
        return h @ self.W2.mT + self.b2
""",
    ),
]
