"""The closed vocabulary of the probe: every word is one token of the embedded model."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words("""
    quiet amber silver golden crimson hollow gentle bitter frozen ancient modern rapid narrow broad heavy light
    bright dark pale green purple orange yellow scarlet rusty dusty mossy sandy rocky stormy sunny cloudy windy
    rainy snowy clever brave humble proud eager calm lonely merry noble royal rural urban secretive loyal honest
    curious careful clumsy graceful fierce tame wild rare plain fancy simple complex smooth rough sharp blunt
    round square oval twisted straight curved hidden open broken mended carved woven knitted polished faded
    fresh stale sweet sour salty spicy warm cool icy damp dry wet loud silent early late northern southern
    eastern western upper lower inner outer distant nearby
""")
NOUNS = _words("""
    harbor lantern river mountain valley forest meadow garden bridge tower castle village market temple library
    museum station airport tunnel canal island desert glacier volcano canyon waterfall orchard vineyard farm
    mill barn stable workshop factory bakery brewery kitchen pantry cellar attic balcony hallway window door
    gate fence wall roof chimney floor carpet mirror table chair bench sofa cabinet drawer shelf basket barrel
    bucket bottle kettle teapot cup plate spoon fork knife needle thread button ribbon blanket pillow curtain
    jacket coat scarf glove boot hat helmet shield sword arrow anchor sail mast rudder compass map chart
    telescope microscope clock watch bell drum flute violin piano trumpet guitar harp whistle candle torch lamp
    stove furnace engine wheel axle gear lever pulley hammer chisel saw drill shovel rake plow wagon cart
    carriage bicycle truck tractor train rocket balloon kite puzzle marble domino statue portrait sketch poem
    novel letter envelope stamp coin medal crown necklace bracelet pearl diamond emerald ruby crystal pebble
    boulder cliff cave lagoon reef dune marsh pond stream brook fountain well dam beacon lighthouse pier ferry
    canoe raft submarine falcon eagle sparrow robin owl raven swan goose turtle lizard salmon trout whale
    dolphin otter beaver badger rabbit squirrel hedgehog wolf bear tiger lion panther leopard camel donkey pony
    goat sheep cow
""")
VERBS = _words("""
    watched followed carried painted repaired borrowed visited measured counted cleaned opened closed moved
    lifted dropped lost sold bought traded admired sketched described ignored praised guarded crossed reached
    left entered circled covered shaded lit warmed cooled washed dried packed shipped
""")
FIRST_NAMES = _words("""
    Anna Boris Clara David Elena Frank Greta Henry Irene Jacob Karen Louis Maria Nolan Olga Peter Quinn Rosa
    Simon Tanya Ursula Victor Wanda Xavier Yvonne Zachary Alice Bruno Celia Derek Edith Felix Gloria Hugo Ingrid
    Jonas Keira Leon Mabel Nadia Oscar Paula Ralph Sonia Theo Uma Vera Walter Yusuf Zelda Amir Bella Cyrus Daria
    Emil Fiona Gavin Hanna Ivan Julia
""")
LAST_NAMES = _words("""
    Rufi Sudubor Toput Gezun Fubi Nutotok Fidafot Vimuzo Relazi Tipu Sukis Divames Zaburak Pipebin Gokut Zili
    Mozumu Ruko Kokul Vorik Bini Ritobut Lisok Fifivi Kodarer Gifosal Senedi Roke Pelul Vavulul Nisoko Megak
    Pebozu Gazuka Bugo Nafut Puma Lekun Geduzal Zanu Vigi Bolaza Dado Punin Morilil Depato Binu Sarobi Monage
    Vogon Luvido Satiruk Negon Sofan Zaso Rivabu Duta Pizun Fenu Kirolun Pememu Fofedo Refivek Guviso Gibinok
    Ginemo Nuzut Zovar Sagir Ferake Fodadal Loril Monagu Mepidis Nuka Sivokil Sopil Sefi Dapelul Noke Tevu
    Lakima Nuke Lonuvan Kuda Fero Zerufo Regil Zomok Sopizor Dene Gevuga Dukefo Bire Palili Duva Vedemen Maze
    Notapos Bononen Linulun Kifo Gafur Farer Zamon Gobor Donek Lara Kovine Zisin Durada Fubot Gololak Difodul
    Fozules Govoli Nafeta Vale Rano Lademal Nazen Seral Gupo Vuvene Zara Gidar Sovit Vakunok Nitar Vapima Gizas
    Digife Tuzole Nonubi Fabek Sobe Nobine Fanimor Vimifos Pugizis Litevur Pafas Vipanel Laruval Somin Bevuge
    Pipekan Sazonu Luseker Minol Kufule Nezorul Nekit Lapo Gileso Lakebis Bemimar Tuda Kami Kipuber Feto Fobe
    Kese Pepen Mebidel Mira Lenek Dinati Ronupik Zoguker Kefarar Rafa Pidopur Lopul Tuvizil Farugi Kokol Domu
    Bezome Pebunas Bilulot Rofil Rafas Gabuti Zenisus Neki Zeral Bozenir Rimidat Daloma Sorele Bubu Fezo Kinuge
    Rerulu Vuzugos Senefa Pozen Nemagor Kilil Gekor Negi Sumu Sinik Nareku Gozunik Vedole Lufik Zolol Ratu
    Pimibo Molufer Talufi Fumogo Darotet Dapus Midokil Ganil Sekuvu Givi Devas Dizefa Peloto Vokipi Fabemar Zika
    Gafetat Fapisu Faraset Sumo Ketadi Fabipi Davema Sisenon Gefomak Pugis Rigek Sumepul Fopuk Nufi
""")
CITIES = _words("""
    Dale Kugubu Sovulu Balolok Pegel Fupi Notu Vulizos Sugoko Soniru Seleri Kivupu Kenulu Tazetat Kuga Zige
    Mabir Dadan Kezete Muben Lusas Kopu Vozuter Sizar Nulezik Satufar Fane Geton Rutis Pafamok Gadar Gapok
    Getomuk Mure Laparil Bodake Vobo Gurabil Goga Tofiman Riso Buso Kinevik Tonimek Potarul Pevo Safit Nepide
    Dipetur Temivu Navumen Kokotok Taveput Salopo Bogu Dozu Kurek Busok Nevas Vunik Barifot Beno Fakunak Roginek
    Diziki Sopapek Vusar Pepibas Gilalos Zineto Kifa Gififek Mikupu Tovipu Limol Nafime Lela Bulezul Seligor
    Lifon Getetul Zefal Lurat Gamonu Rupo Fomuna Redufas Kasin Malos Dofut Bepa Sugelok Gane Solu Tupepa Sefol
    Fofoli Niku Gotetu Ruves Sesa Pateze Tede Vaso Fiti Mosat Sibel Ruteme Zolonur Nevozun Lusok Size Davagik
    Vizodot Kurer Tasuni Nefuket Rutopor Kefu Domonor Bupa Botok Dipipo Tekabot Gigur Vasupa Mebi Napivi Ridu
    Vivoku Balo Luta Tupu Mevefuk Sekaza Mala Gepet Duzirek Mefofo Repo Forezil Fori Nemoket Zoran Risigo
    Punepul Mapetok Runatot Vulefe Monel Kisisan Nada Lulofi Mugodun Netabit Nuge Fikoru Vidugul Veguvuk Gozire
""")
JOBS = _words("""
    baker teacher pilot farmer doctor nurse painter writer singer dancer plumber welder miner sailor lawyer
    judge banker grocer barber tailor weaver potter smith carpenter mason gardener chemist physicist editor
    printer
""")
