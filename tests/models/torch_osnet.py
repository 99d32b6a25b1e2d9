"""OSNet in PyTorch, written from the paper: what tests compare with. Names of modules are torchreid's."""

import torch
from torch import nn


def normal(cin, cout, kernel=1, stride=1, relu=True, **options):
    """Convolution, BatchNorm and ReLU as submodules conv, bn, relu."""
    parts = nn.Sequential()
    parts.add_module("conv", nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False, **options))
    parts.add_module("bn", nn.BatchNorm2d(cout))
    if relu:
        parts.add_module("relu", nn.ReLU())
    return parts


def lite(width):
    parts = nn.Sequential()
    parts.add_module("conv1", nn.Conv2d(width, width, 1, bias=False))
    parts.add_module("conv2", nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False))
    parts.add_module("bn", nn.BatchNorm2d(width))
    parts.add_module("relu", nn.ReLU())
    return parts


class Gate(nn.Module):
    def __init__(self, width):
        super().__init__()
        hidden = max(width // 16, 1)
        self.fc1, self.fc2 = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class ContextGate(nn.Module):
    """Gates of 16 groups of channels ("Linear Context Transform")."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(1, width, 1, 1)), nn.Parameter(torch.randn(1, width, 1, 1))

    def forward(self, x):
        means = x.mean((2, 3), keepdim=True)
        groups = means.reshape(1, 16, -1)
        normal = nn.functional.layer_norm(groups, groups.shape[-1:]).reshape(means.shape)
        return x * torch.sigmoid(normal * self.weight + self.bias)


class Block(nn.Module):
    def __init__(self, cin, cout, context=False):
        super().__init__()
        width = cout // 4
        self.conv1 = normal(cin, width)
        self.conv2a = lite(width)
        self.conv2b, self.conv2c, self.conv2d = (nn.Sequential(*[lite(width) for _ in range(n)]) for n in (2, 3, 4))
        self.gate = ContextGate(width) if context else Gate(width)
        self.conv3 = normal(width, cout, relu=False)
        self.downsample = normal(cin, cout, relu=False) if cin != cout else nn.Identity()

    def forward(self, x):
        first = self.conv1(x)
        streams = [self.gate(part(first)) for part in (self.conv2a, self.conv2b, self.conv2c, self.conv2d)]
        return torch.relu(self.conv3(sum(streams)) + self.downsample(x))


class OSNet(nn.Module):
    """Scaled images [B,3,H,W] -> maps of conv2, conv3, conv4 and conv5; `embed`: [B,512]."""

    def __init__(self, spec):
        super().__init__()
        c1, (c2, c3, c4) = spec.stem_width, spec.widths
        self.norm = nn.InstanceNorm2d(3, affine=True) if spec.instance_norm else nn.Identity()
        self.conv1 = normal(3, c1, 7, 2)
        if spec.instance_norm:
            self.conv1.bn = nn.InstanceNorm2d(c1, affine=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for name, cin, cout in (("conv2", c1, c2), ("conv3", c2, c3), ("conv4", c3, c4)):
            parts = [Block(cin, cout), Block(cout, cout, spec.context_gates)]
            if name != "conv4":
                parts.append(nn.Sequential(normal(cout, cout), nn.AvgPool2d(2, 2, ceil_mode=True)))
            setattr(self, name, nn.Sequential(*parts))
        self.conv5 = normal(c4, c4)
        self.fc = nn.Sequential(nn.Linear(c4, 512), nn.BatchNorm1d(512), nn.ReLU())
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                for tensor, low, high in (
                    (module.weight.data, 0.5, 1.5), (module.bias.data, -0.5, 0.5),
                    (module.running_mean, -0.5, 0.5), (module.running_var, 0.3, 2.0),
                ):  # fmt: skip
                    tensor.uniform_(low, high)
            if isinstance(module, nn.InstanceNorm2d):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.5, 0.5)
        self.eval()

    def forward(self, x):
        x, maps = self.maxpool(self.conv1(self.norm(x))), []
        for stage in (self.conv2, self.conv3, self.conv4):
            x = stage[1](stage[0](x))
            maps.append(x)
            x = stage[2](x) if len(stage) > 2 else x
        return (*maps, self.conv5(x))

    def embed(self, x):
        return self.fc(self(x)[-1].mean((2, 3)))
