"""Word lists of the data generator. Everything the demo model is trained on is made from these and from templates."""

NAMES = ("Mia Tom Anna Ben Lily Sam Emma Jack Nora Max Ella Leo Ruby Finn Clara Hugo Ivy Oscar Zoe Adam Lucy Felix "
         "Rosa Peter Alice Jonas Vera Simon Greta Paul Tara Luke Bob Carol Dave Eve Maria John Mary Sarah David Laura "
         "Mark Julia Ali Priya Omar Chen Yuki Ravi Fatima Ahmed Ingrid Lars Sofia Pablo Olga Ivan Kim Lee Nina Karl "
         "Amy Joe Kate Nick Robin Alex Chris Erik Hans Marie Louis Grace Henry Jane Frank Linda Susan Diana Victor").split()
SHE = set("Mia Anna Lily Emma Nora Ella Ruby Clara Ivy Zoe Lucy Rosa Alice Vera Greta Tara Carol Eve Maria Mary Sarah "
          "Laura Julia Priya Yuki Fatima Ingrid Sofia Olga Nina Amy Kate Marie Grace Jane Linda Susan Diana".split())
COLOURS = "red blue green yellow white black brown pink purple orange grey silver golden".split()
THINGS = ("ball kite book hat coat cup lamp key drum boat ring bell box map scarf basket bottle blanket whistle flute "
          "mirror clock umbrella ladder phone wallet laptop watch camera guitar bag pen chair table shoe coin candle "
          "knife spoon plate bicycle toy doll rope hammer letter photo stone shell").split()
PLACES = ("garden kitchen park forest library market school station barn attic harbour museum bakery tower castle "
          "meadow village shop cellar bridge office garage bedroom bathroom hotel church beach farm cave hospital "
          "drawer cupboard").split()
ANIMALS = ("cat dog horse rabbit fox goat owl duck hen mouse sheep parrot pony turtle cow pig bird fish frog bear lion "
           "wolf monkey snake").split()
PETS = "Bella Rex Milo Luna Charlie Daisy Rocky Coco Lola Buddy Oreo Simba Fluffy Spot Whiskers Pepper".split()
FRUITS = ("apples pears plums cherries peaches lemons figs berries nuts eggs candles shells stones coins buttons "
          "bananas oranges books pens stamps cookies flowers").split()
FOODS = "pizza soup bread rice pasta cake cheese salad fish chocolate pancakes curry sushi tacos noodles ice".split()
TIMES = ["One morning", "One evening", "On a rainy day", "On a sunny day", "Last summer", "After school",
         "Before dinner", "Early in the day", "Late at night", "On Monday", "On Friday", "One day", "Yesterday"]
SPOTS = ["under the bench", "behind the door", "near the old wall", "next to the well", "on the top shelf",
         "in a wooden chest", "beside the path", "under the stairs", "behind the big tree", "on the window sill",
         "under the bed", "on the table"]
CITIES = ("Paris London Rome Berlin Madrid Oslo Vienna Prague Dublin Lisbon Athens Cairo Tokyo Delhi Lima Boston Toronto "
          "Sydney Zurich Geneva Milan Porto Seville Munich Hamburg Warsaw Helsinki Stockholm Chicago Mumbai Seoul Beijing "
          "Moscow Amsterdam Brussels Barcelona Istanbul Nairobi Lagos Denver Seattle Miami Dallas Houston Kyoto Venice "
          "Naples Budapest Bangkok Singapore").split()
COUNTRIES = ("France Germany Spain Italy Japan China India Brazil Canada Mexico Egypt Norway Sweden Poland Greece Kenya "
             "Peru Chile Turkey Australia England").split()
WEATHER = ["sunny", "cloudy", "light rain", "heavy rain", "snow", "fog", "windy", "clear skies"]
NUM = "zero one two three four five six seven eight nine ten eleven twelve".split()
JOBS = ("baker doctor teacher farmer painter pilot writer nurse cook singer builder driver lawyer engineer student "
        "artist dentist waiter gardener programmer").split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
DEVICES = "light heating radio oven fan television printer alarm".split()
WORDS = sorted(set(THINGS + PLACES + ANIMALS + COLOURS + FOODS + (
    "river stone cloud window paper sugar silver winter summer music garden letter bread coffee ocean island mountain "
    "pencil button candle engine number planet shadow tiger violet winner yogurt zebra copper dragon feather hammer "
    "jacket kettle lantern magnet needle orchid pepper quartz ribbon saddle temple velvet walnut apple banana lemon "
    "cherry grape orange water fire earth wind sun moon star sky tree flower leaf grass rain snow ice milk tea juice "
    "house door room street road city country world time day night week month year hand foot head eye ear nose mouth "
    "friend mother father sister brother child king queen hello world yes no good bad big small fast slow hot cold "
    "happy sad new old one two three four five six seven eight nine ten alpha beta gamma delta test rust code cpu "
    "train plane car bus ship truck wheel hill lake sea sand gold iron wood glass paint brush wolf eagle").split()))
OTHER = sorted(set(JOBS + FRUITS + " ".join(WEATHER).split() + DAYS + MONTHS + DEVICES
                   + "add subtract multiply divide".split() + NUM))
ONSETS = "b c d f g h j k l m n p r s t v w z br ch cr dr fl gr kl pl pr sh st th tr".split()
VOWELS = "a e i o u ai ea oo".split()
CODAS = ["", "", "n", "r", "l", "s", "t", "m", "k", "nd", "x"]


def a_an(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def made_up(r):
    """a pronounceable word that is in no list, so that copying does not depend on the lists"""
    return "".join(r.choice(ONSETS) + r.choice(VOWELS) + r.choice(CODAS) for _ in range(r.choice([1, 2, 2, 3])))
