"""MobileNetV2 in PyTorch, written from the paper: what tests compare with. Names of modules are torchvision's."""

from torch import nn

# The paper's Table 2: expansion t, channels c, blocks n, stride s.
TABLE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def activated(cin, cout, kernel, stride=1, groups=1):
    convolution = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(cout), nn.ReLU6())


class InvertedResidual(nn.Module):
    def __init__(self, cin, cout, stride, t, expands):
        super().__init__()
        self.residual = stride == 1 and cin == cout
        expansion = [activated(cin, t * cin, 1)] if expands else []
        depthwise = activated(t * cin, t * cin, 3, stride, t * cin)
        self.conv = nn.Sequential(
            *expansion, depthwise, nn.Conv2d(t * cin, cout, 1, bias=False), nn.BatchNorm2d(cout)
        )  # fmt: skip

    def forward(self, x):
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Scaled images [B,3,H,W] -> the last maps of 24, 32, 96 and 320 channels."""

    def __init__(self, expands_first=False):
        super().__init__()
        layers, cin, ends = [activated(3, 32, 3, 2)], 32, []
        for t, c, n, s in TABLE:
            for i in range(n):
                layers.append(InvertedResidual(cin, c, 1 if i else s, t, t > 1 or expands_first))
                cin = c
            ends.append(len(layers) - 1)
        self.outputs = [ends[stage] for stage in (1, 2, 4, 6)]
        self.features = nn.Sequential(*layers, activated(cin, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(1280, 10))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight.data, 0.5, 1.5), (module.bias.data, -0.5, 0.5),
                    (module.running_mean, -0.5, 0.5), (module.running_var, 0.3, 2.0),
                ):  # fmt: skip
                    tensor.uniform_(low, high)
        self.eval()

    def forward(self, x):
        maps = []
        for layer in self.features[:-1]:
            x = layer(x)
            maps.append(x)
        return tuple(maps[i] for i in self.outputs)
