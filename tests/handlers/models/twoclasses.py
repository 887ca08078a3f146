class A:
    def initialize(self, c):
        pass

    def handle(self, data, c):
        return ["a"] * len(data)


class B:
    def initialize(self, c):
        pass

    def handle(self, data, c):
        return ["b"] * len(data)
